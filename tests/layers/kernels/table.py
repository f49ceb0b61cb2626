"""All operations: what to call, and the shapes at which the zoo calls them."""

import jax
import jax.numpy as jnp

from streamzoo.layers.kernels import ring_attention as ring
from streamzoo.layers.kernels.attention import attention
from streamzoo.layers.kernels.block_attention import block_attention
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ssd import SSD

from . import (
    block_attention_cases,
    gated_delta_cases,
    linear_scan_cases,
    ring_attention_cases,
    ssd_cases,
)


def _attention_shapes():
    shape = jax.ShapeDtypeStruct
    frame = shape((8, 197, 12, 64), jnp.bfloat16)
    clip = shape((1, 1568, 12, 64), jnp.bfloat16)
    return [("ViT-B frame", (frame,) * 3, {}), ("VideoMAE-B clip", (clip,) * 3, {})]


def _by_name(arrays, **options):
    return block_attention(**arrays, **options)


OPS = {
    "attention": (attention, _attention_shapes),
    "ring_attention": (ring.read, ring_attention_cases.zoo_shapes),
    "block_attention": (
        _by_name,
        lambda: [(n, (a,), o) for n, a, o in block_attention_cases.zoo_shapes()],
    ),
    "gated_delta": (gated_delta, gated_delta_cases.zoo_shapes),
    "linear_scan": (linear_scan, linear_scan_cases.zoo_shapes),
    "ssd": (SSD, ssd_cases.zoo_shapes),
}
# No kernel is meant here: a library's attention, and one frame of a diagonal recurrence, which
# XLA fuses with its neighbours.
PLAIN = {
    *((("attention", name)) for name in ("ViT-B frame", "VideoMAE-B clip")),
    ("linear_scan", "vit_s_frame"),
    ("linear_scan", "vit_b_64_streams"),
}


def cases() -> list[tuple[str, str]]:
    """(operation, name of a shape) of all."""
    return [(op, name) for op, (_, shapes) in OPS.items() for name, *_ in shapes()]


def case(op: str, name: str):
    """(function of the arrays, arrays as shapes) of one."""
    run, shapes = OPS[op]
    arrays, options = next((a, o) for n, a, o in shapes() if n == name)
    return lambda *arrays: run(*arrays, **options), arrays

"""From the operation's arguments to a kernel: block sizes, what cannot be taken, gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton as plt

from ..blocks import blocks_for
from ..split import Split
from . import pallas_generic, pallas_tpu, reference
from .pallas_generic import Plan, arrange, lanes_of, power_of_two, restore
from .reference import Keys, apart, time_rates

Array = jax.Array
DTYPES = (jnp.float32, jnp.bfloat16)
CHUNK = 64  # query frames up to which the elementwise position form beats a batched product


def _planes(keys: Keys, kv_heads: int) -> int:
    return 1 if keys.k_scale is None else keys.k_scale.shape[-2] // kv_heads


def plan_for(q: Array, keys: Keys, platform: str, options: dict[str, Any]) -> Plan:
    """Block sizes on "tpu" or "cuda" (which Triton wants as powers of two)."""
    heads, kv_heads, over = options["heads"], options["kv_heads"], options["over"]
    tokens, (frames, kept) = q.shape[2], keys.k.shape[-3:-1]
    override = dict(options.get("blocks") or ())
    sizes = blocks_for("ring_attention", platform, over, override)
    planes, narrow = _planes(keys, kv_heads), platform == "cuda"
    head = q.shape[-1] // heads
    lanes = lanes_of(kv_heads, head, planes, narrow)
    rows = tokens if over == "position" else tokens * (heads // kv_heads)
    if narrow:
        tile, slots = power_of_two(min(sizes["rows"], rows)), frames
        part = power_of_two(min(sizes.get("keys", tokens), tokens))
    else:
        tile = rows if rows <= sizes["rows"] else sizes["rows"] // 16 * 16
        if over == "position":  # query and key tokens share a tile; scales lie along the lanes
            limit = sizes["rows"] if keys.k_scale is None else max(256, sizes["rows"])
            tile = kept if kept <= limit else limit // 128 * 128 or limit // 16 * 16
        own = tile if over == "position" else kept
        slot = -(-own // 8) * 8 * lanes * keys.k.dtype.itemsize
        slots = max(8, sizes["bytes"] // slot // 8 * 8)
        slots, part = min(slots, frames), kept
    return Plan(
        over=over,
        tokens=tokens,
        kept=kept,
        planes=planes,
        heads=lanes // (head // planes),
        kv_heads=kv_heads,
        head=head // planes,
        lanes=lanes,
        rows=tile,
        part=part,
        slots=slots,
        frames=frames,
        tiled=narrow,
        scale=head**-0.5,
        rope=options["rope_base"] is not None,
        quantised=keys.k_scale is not None,
    )


def unable(q: Array, keys: Keys, **options: Any) -> str | None:
    """Why no kernel can take these, interpreted or not."""
    head = q.shape[-1] // options["heads"]
    if q.dtype not in DTYPES:
        return f"q has dtype {q.dtype}; float32 or bfloat16 is wanted"
    if keys.k_scale is None and keys.k.dtype not in DTYPES:
        return f"k has dtype {keys.k.dtype}; float32, bfloat16 or a quantised ring is wanted"
    if options["rope_base"] is None and head % 2:
        return f"q has head width {head}, which is odd"
    return None


def unable_compiled(q: Array, keys: Keys, **options: Any) -> str | None:
    """Why a compiled kernel cannot, or should not, take these."""
    if reason := unable(q, keys, **options):
        return reason
    head, tokens, steps = q.shape[-1] // options["heads"], q.shape[2], q.shape[1]
    width = head // _planes(keys, options["kv_heads"])
    if width & (width - 1) or not 16 <= width <= 256:
        return f"q has head width {head}; a power of two from 32 to 256 is wanted"
    if tokens < 16:
        return f"q has {tokens} tokens per frame; 16 or more are wanted"
    if options["over"] == "position" and steps > CHUNK:
        return f"q has {steps} frames, each over its own past; at most {CHUNK} are wanted"
    return None


def parts(q: Array, keys: Keys, **options: Any) -> dict[str, int]:
    """How many streams and heads can be cut apart. Codes of 4 bits have the scales of all first
    halves before those of the second ones: their heads stay together."""
    return {
        "b": q.shape[0],
        "h": options["kv_heads"] if _planes(keys, options["kv_heads"]) == 1 else 1,
    }


# As of Keys; the letters are those of ``split``.
_CUT: Any = cast("Any", Keys)("b..h", "b..h", "b.h.", "b.h.", "b.", "b.", "b.", "b..", "")
_CUT_STACK = _CUT._replace(k="b...h", v="b...h", k_scale="b..h.", v_scale="b..h.")


def _forward(q: Array, keys: Keys, call: Callable, platform: str, options: dict, **params) -> Array:
    heads, kv_heads, over = options["heads"], options["kv_heads"], options["over"]
    plan = plan_for(q, keys, platform, options)
    base, half = options["rope_base"], q.shape[-1] // heads // 2
    rates = None if base is None else time_rates(half, base, options.get("pairs"))
    gaps = apart(keys, options["sinks"], options["window"])
    operands = arrange(q, keys, gaps, rates, heads, kv_heads, over, plan.lanes)
    y = call(plan, operands, q.dtype, **params)
    return restore(y, heads, kv_heads, over, q.shape[2], q.shape[1])


def _differentiable(forward: Callable[[Array, Keys, dict], Array], options: dict) -> Callable:
    """The kernel forward, each device's streams and heads by themselves; backward the reference's:
    a ring's gradient is asked for in training, where T is large and the reference is one batched
    product."""
    split: Split = options.pop("split")
    ways = split.ways("h")
    own = {**options, **{name: options[name] // ways for name in ("heads", "kv_heads")}}

    @jax.custom_vjp
    def run(q: Array, keys: Keys) -> Array:
        cut = _CUT if keys.layer is None else _CUT_STACK
        there = type(cut)(*(a if a is None else dims for a, dims in zip(keys, cut, strict=True)))
        plain = lambda q, keys: reference.read(q, keys, **options)
        here = lambda q, keys: forward(q, keys, own)
        return split.run(here, plain, ("b..h", there), "b..h")(q, keys)

    def backward(saved: tuple[Array, Keys], g: Array) -> tuple[Array, Keys]:
        leaves, tree = jax.tree.flatten(saved)
        floats = [i for i, a in enumerate(leaves) if jnp.issubdtype(a.dtype, jnp.floating)]

        def plain(*values: Array) -> Array:
            full = list(leaves)
            for i, value in zip(floats, values, strict=True):
                full[i] = value
            return reference.read(*jax.tree.unflatten(tree, full), **options)

        _, pull = jax.vjp(plain, *(leaves[i] for i in floats))
        zeros: list[Any] = [np.zeros(a.shape, jax.dtypes.float0) for a in leaves]
        for i, value in zip(floats, pull(g), strict=True):
            zeros[i] = value
        return jax.tree.unflatten(tree, zeros)

    run.defvjp(lambda q, keys: (run(q, keys), (q, keys)), backward)
    return run


def compiled(q: Array, keys: Keys, **options: Any) -> Array:
    """The body of the platform that is lowered for."""

    def cuda(q: Array, keys: Keys, options: dict) -> Array:
        params = plt.CompilerParams(num_warps=4, num_stages=2)
        call = pallas_generic.call
        return _forward(q, keys.one_layer(), call, "cuda", options, compiler_params=params)

    def tpu(q: Array, keys: Keys, options: dict) -> Array:
        call = functools.partial(pallas_tpu.call, layer=keys.layer)
        return _forward(q, keys, call, "tpu", options)

    def either(q: Array, keys: Keys, options: dict) -> Array:
        bound = (functools.partial(run, options=options) for run in (cuda, tpu))
        return lax.platform_dependent(q, keys, **dict(zip(("cuda", "default"), bound, strict=True)))

    return _differentiable(either, options)(q, keys)


def interpret(q: Array, keys: Keys, **options: Any) -> Array:
    """The generic body, tiled as on a GPU, by the HLO interpreter."""

    def run(q: Array, keys: Keys, options: dict) -> Array:
        call = pallas_generic.call
        return _forward(q, keys.one_layer(), call, "cuda", options, interpret=True)

    return _differentiable(run, options)(q, keys)


def interpret_tpu(q: Array, keys: Keys, **options: Any) -> Array:
    """The TPU body by the HLO interpreter."""

    def run(q: Array, keys: Keys, options: dict) -> Array:
        call = functools.partial(pallas_tpu.call, layer=keys.layer)
        return _forward(q, keys, call, "tpu", options, interpret=True)

    return _differentiable(run, options)(q, keys)

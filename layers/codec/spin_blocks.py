"""SpinQuant's R1 and R2 in the weights of a stack of transformer blocks.

Our blocks have LayerNorm, and TSA's shift moves some channels by a frame: R1 has to keep the vector
of ones in each block of channels that moves together (``spin.keeping_ones``,
``spin.block_diagonal``). The stack then maps x R1 to y R1 where it mapped x to y.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array, Params
from .spin import (
    block_diagonal,
    fold_norm,
    heads_read,
    heads_written,
    random_rotation,
    reader,
    writer,
)


def shift_rotation(dim: int, moved: int, seed: int = 0) -> np.ndarray:
    """R1 [dim, dim] of a TSA whose shift moves the first ``moved`` channels; 0: no shift."""
    parts = [n for n in (moved, dim - moved) if n]
    return block_diagonal([random_rotation(n, seed + i, ones=True) for i, n in enumerate(parts)])


def rotate_stack(stack: Params, r1: Array, r2: Array) -> Params:
    """Parameters of a ``BlockStack`` (leaves [L, ...]) in rotated channels.

    Args:
      r1: [D, D], which keeps the vector of ones in every part that a shift moves.
      r2: [H, Dh, Dh], one for each head.

    Raises:
      ValueError: a mixer with weights of its own, whose state has no rotated form; blocks that are
        not LayerNorm, attention with as many key heads as heads, and a plain MLP.
    """
    ones = np.ones(len(r1))
    if np.abs(ones @ np.asarray(r1) - ones).max() > 1e-3:
        raise ValueError("r1 moves the vector of ones, so LayerNorm does not commute with it;"
                         " spin.keeping_ones(r1) makes one that does")  # fmt: skip
    return {name: _block(name, layer, r1, r2) for name, layer in stack.items()}


def _block(name: str, layer: Any, r1: Array, r2: Array) -> Params:
    known = {"norm1", "norm2", "attn", "mlp", "scale1", "scale2"}
    if set(layer) - known or set(layer["mlp"]) != {"up", "down"}:
        raise ValueError(f"{name} of {', '.join(sorted(layer))} has no rotated form")
    new = jax.tree.map(jnp.asarray, dict(layer))
    qkv, width = layer["attn"]["qkv"], r2.shape[0] * r2.shape[1]
    kernel, bias = fold_norm(*_norm(layer["norm1"]), qkv["kernel"], qkv.get("bias"))
    if kernel.shape[-1] != 3 * width:
        raise ValueError(f"{name}: r2 {r2.shape} is not of its heads")
    turned = lambda a: jnp.concatenate(
        [a[..., : 2 * width], heads_written(a[..., 2 * width :], r2)], axis=-1
    )
    out, down = layer["attn"]["out"], layer["mlp"]["down"]
    gain1, gain2 = (layer[s]["gain"] if s in layer else None for s in ("scale1", "scale2"))
    new["attn"] = {
        "qkv": {"kernel": turned(reader(kernel, r1)), "bias": turned(bias)},
        "out": _written(heads_read(out["kernel"], r2), out.get("bias"), gain1, r1),
    }
    up = layer["mlp"]["up"]
    kernel, bias = fold_norm(*_norm(layer["norm2"]), up["kernel"], up.get("bias"))
    new["mlp"] = {
        "up": {"kernel": reader(kernel, r1), "bias": bias},
        "down": _written(down["kernel"], down.get("bias"), gain2, r1),
    }
    for norm in ("norm1", "norm2"):
        scale, shift = _norm(layer[norm])
        new[norm] = {"scale": jnp.ones_like(scale), "bias": jnp.zeros_like(shift)}
    for scale in {"scale1", "scale2"} & set(layer):
        new[scale] = {"gain": jnp.ones_like(layer[scale]["gain"])}
    return new


def _norm(norm: Any) -> tuple[Array, Array]:
    if "bias" not in norm:
        raise ValueError("rotate_stack is for LayerNorm with a bias")
    return norm["scale"], norm["bias"]


def _written(kernel: Array, bias: Array | None, gain: Array | None, r1: Array) -> dict[str, Array]:
    if gain is not None:
        kernel = kernel * gain[..., None, :]
        bias = None if bias is None else bias * gain
    new = {"kernel": writer(kernel, r1)}
    return new if bias is None else new | {"bias": writer(bias, r1)}

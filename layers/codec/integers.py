"""Arrays as integers: scales, codes and back, per row or in groups along the last axis.

Two conventions of a symmetric scale are in use, and a code means nothing without its own:

- ``half``: absmax / ((2^b - 1) / 2), codes -2^(b-1) .. 2^(b-1) - 1 (compressed-tensors, torchao,
  qwix): all codes are used, the largest positive value is clipped by half a step;
- ``whole``: absmax / (2^(b-1) - 1) (int8 of most runtimes, ParetoQ, SpinQuant): nothing is clipped.

Source: vllm-project/compressed-tensors, ``quantization/lifecycle/forward.py``; the search for the
scale of least error is that of GPTQ (Frantar et al., arXiv 2210.17323) as in SpinQuant (Liu et al.,
arXiv 2405.16406).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ..streaming import Array


class Codes(NamedTuple):
    """value = (codes - zero) * scale, group by group."""

    codes: Array  # [..., K] int8, signed
    scale: Array  # [..., K / group] fp32
    zero: Array  # [..., K / group] int8-valued fp32; 0 of a symmetric form


def grouped(x: Array, group: int | None) -> Array:
    """[..., K] -> [..., K / group, group]; None is one group.

    Raises:
      ValueError: the axis does not divide into groups.
    """
    width = x.shape[-1]
    size = group or width
    if width % size:
        fits = [n for n in (128, 64, 32, 16) if width % n == 0]
        raise ValueError(
            f"an axis of {width} does not divide into groups of {size}"
            + (f"; groups of {', '.join(map(str, fits))} do" if fits else "")
        )
    return x.reshape(*x.shape[:-1], width // size, size)


def scales(
    x: Array, bits: int, *, symmetric: bool = True, convention: str = "half", clip: float = 1.0
) -> tuple[Array, Array]:
    """(scale, zero) of groups x [..., G, group] -> [..., G], each; scale 0 only where all is 0.

    ``clip`` < 1 narrows the range: larger values are clipped.
    """
    top = 2 ** (bits - 1) - 1
    xp = x.__array_namespace__()
    low, high = xp.minimum(x.min(-1), 0) * clip, xp.maximum(x.max(-1), 0) * clip
    if symmetric:
        steps = top if convention == "whole" else (2**bits - 1) / 2
        scale = xp.maximum(-low, high) / np.float32(steps)
        return scale, xp.zeros_like(scale)
    scale = (high - low) / np.float32(2**bits - 1)
    zero = xp.round(-(top + 1) - low / _safe(scale))
    return scale, xp.where(scale > 0, xp.clip(zero, -(top + 1), top), np.float32(0))


def _floats(x: Any) -> Any:
    """fp32, traced or not, where it is: on the host a division is a division, while XLA multiplies
    by the reciprocal of a broadcast divisor, which decides ties."""
    return x.astype("float32") if isinstance(x, jax.Array) else np.asarray(x, np.float32)


def _safe(scale: Array) -> Array:
    return scale.__array_namespace__().where(scale > 0, scale, np.float32(1))


def to_codes(x: Array, scale: Array, zero: Array, bits: int) -> Array:
    """Nearest codes of groups x [..., G, group], int8."""
    top = 2 ** (bits - 1) - 1
    # in this order, as compressed-tensors: adding the zero before rounding decides ties
    xp = x.__array_namespace__()
    codes = xp.round(x / _safe(scale)[..., None] + zero[..., None])
    return xp.clip(codes, -(top + 1), top).astype("int8")


def quantise(
    x: Array,
    bits: int,
    *,
    group: int | None = None,
    symmetric: bool = True,
    convention: str = "half",
    clip: float = 1.0,
) -> Codes:
    """x [..., K] -> :class:`Codes` in groups along K. See :func:`scales` for the rest."""
    parts = grouped(_floats(x), group)
    scale, zero = scales(parts, bits, symmetric=symmetric, convention=convention, clip=clip)
    return Codes(to_codes(parts, scale, zero, bits).reshape(x.shape), scale, zero)


def dequantise(codes: Codes) -> Array:
    """The fp32 values of :func:`quantise`'s answer, [..., K]."""
    parts = codes.codes.reshape(*codes.scale.shape, -1).astype("float32")
    return ((parts - codes.zero[..., None]) * codes.scale[..., None]).reshape(codes.codes.shape)


def search(
    x: Array,
    bits: int,
    *,
    group: int | None = None,
    symmetric: bool = True,
    convention: str = "whole",
    steps: int = 100,
    least: float = 0.2,
    power: float = 2.4,
) -> Codes:
    """As :func:`quantise`, each group with the clip in (least, 1] of the least sum |error|^power;
    of equal ones the widest."""
    parts = grouped(_floats(x), group)
    best = None
    for i in range(round((1 - least) * steps)):
        clip = 1 - i / steps
        scale, zero = scales(parts, bits, symmetric=symmetric, convention=convention, clip=clip)
        codes = to_codes(parts, scale, zero, bits)
        back = (codes.astype("float32") - zero[..., None]) * scale[..., None]
        error = (abs(back - parts) ** power).sum(-1)
        if best is None:
            best = error, scale, zero
            continue
        won = error < best[0]
        pairs = zip((error, scale, zero), best, strict=True)
        best = tuple(parts.__array_namespace__().where(won, new, old) for new, old in pairs)
    assert best is not None
    _, scale, zero = best
    return Codes(to_codes(parts, scale, zero, bits).reshape(x.shape), scale, zero)

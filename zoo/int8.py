"""Kernels of 8 bits in a file, floats in memory: a quarter of the bytes, nothing else changes.

Weights are symmetric int8 with one scale per output channel, rounded to nearest. Biases, norms and
tables are a few percent of the bytes and carry more each: they stay. What *runs* on codes is
``zoo.compress``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.streaming import AnyArray, Params
from .errors import WeightsError
from .trees import flatten, nest

LEVELS = 127  # symmetric: -128 is not used
SUFFIX = "int8_scale"  # "a/kernel" int8 is stored beside "a/kernel_int8_scale"


def is_kernel(name: str, leaf: Any) -> bool:
    """True for the weights of dense layers, convolutions and recurrences, by their flat name."""
    return name.endswith(("kernel", "recurrent")) and np.ndim(leaf) >= 2


def _axes(leaf: np.ndarray) -> tuple[int, ...]:
    # kernels [in, out] and [k, k, in, out]; three axes are layers stacked over depth [L, in, out]
    return (1,) if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))


def quantise(kernel: AnyArray) -> tuple[np.ndarray, np.ndarray]:
    """kernel -> (int8 of its shape, float32 scale with 1 in place of the input axes).

    Every |weight - int8 * scale| <= scale / 2.

    Raises:
      WeightsError: a weight that is not finite.
    """
    kernel = np.asarray(kernel, np.float32)
    if not np.isfinite(kernel).all():
        raise WeightsError("a kernel with a weight that is not finite has no 8-bit form")
    scale = np.abs(kernel).max(axis=_axes(kernel), keepdims=True) / np.float32(LEVELS)
    # a scale so small that it rounds to nothing: its weights are zero
    safe = np.where(scale > 0, scale, np.float32(1))
    steps = np.clip(np.rint(kernel / safe), -LEVELS, LEVELS)
    return steps.astype(np.int8), scale.astype(np.float32)


def dequantise(steps: AnyArray, scale: AnyArray) -> np.ndarray:
    """The float32 kernel of :func:`quantise`'s answer."""
    return np.asarray(steps, np.float32) * np.asarray(scale, np.float32)


def pack(flat: Params) -> dict[str, np.ndarray]:
    """Flat weights with every kernel as int8 and its scale beside it; the rest as it is."""
    packed: dict[str, np.ndarray] = {}
    for name, leaf in flat.items():
        if is_kernel(name, leaf):
            packed[name], packed[f"{name}_{SUFFIX}"] = quantise(leaf)
        else:
            packed[name] = np.asarray(leaf)
    return packed


def unpack(flat: Params) -> dict[str, Any]:
    """The inverse of :func:`pack`, up to rounding; weights without scales come as they are."""
    scales = {name for name in flat if name.endswith(f"_{SUFFIX}")}
    found = {name: leaf for name, leaf in flat.items() if name not in scales}
    for name in scales:
        kernel = name.removesuffix(f"_{SUFFIX}")
        if kernel not in found:
            raise WeightsError(f"{name!r} is the scale of {kernel!r}, which is not in the file")
        found[kernel] = dequantise(found[kernel], flat[name])
    return found


def int8(variables: Params) -> Params:
    """Variables as they come back from 8 bits: to measure what it costs without a file."""
    return nest(unpack(pack(flatten(variables))))

"""Smaller weights: 8 bits per weight on disk, and the smallest weights left out.

    compress.save_int8("small.safetensors", variables, {"model": "live-mi-lite0"})
    model, variables = zoo.load("small.safetensors")     # float32 again, each within half a step
    sparse = compress.prune(variables, 0.3)              # 30 % of every kernel is zero

Both touch kernels alone (names that end in ``kernel``); biases, norms and tables are a few
percent of the bytes and carry more each. Weights are symmetric int8 with one scale per output
channel, rounded to nearest; what runs is float again, so no kernel has to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .hub import WeightsError

LEVELS = 127  # symmetric: -128 is not used
SUFFIX = "int8_scale"  # "a/kernel" int8 is stored beside "a/kernel_int8_scale"


def is_kernel(name: str, leaf: Any) -> bool:
    """True for the weights of dense layers and convolutions, by their flat name."""
    return name.endswith("kernel") and np.ndim(leaf) >= 2


def _axes(leaf: np.ndarray) -> tuple[int, ...]:
    # kernels [in, out] and [k, k, in, out]; three axes are layers stacked over depth [L, in, out]
    return (1,) if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))


def quantise(kernel: Any) -> tuple[np.ndarray, np.ndarray]:
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


def dequantise(steps: Any, scale: Any) -> np.ndarray:
    """The float32 kernel of :func:`quantise`'s answer."""
    return np.asarray(steps, np.float32) * np.asarray(scale, np.float32)


def pack(flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flat weights with every kernel as int8 and its scale beside it; the rest as it is."""
    packed: dict[str, np.ndarray] = {}
    for name, leaf in flat.items():
        if is_kernel(name, leaf):
            packed[name], packed[f"{name}_{SUFFIX}"] = quantise(leaf)
        else:
            packed[name] = np.asarray(leaf)
    return packed


def unpack(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`pack`, up to rounding; weights without scales come as they are."""
    scales = {name for name in flat if name.endswith(f"_{SUFFIX}")}
    found = {name: leaf for name, leaf in flat.items() if name not in scales}
    for name in scales:
        kernel = name.removesuffix(f"_{SUFFIX}")
        if kernel not in found:
            raise WeightsError(f"{name!r} is the scale of {kernel!r}, which is not in the file")
        found[kernel] = dequantise(found[kernel], flat[name])
    return found


def int8(variables: Any) -> Any:
    """Variables as they come back from 8 bits: to measure what it costs without a file."""
    from .weights import flatten, nest

    return nest(unpack(pack(flatten(variables))))


def save_int8(path: str | Path, variables: Any, metadata: Mapping[str, Any] | None = None) -> str:
    """As ``zoo.save``, about a quarter of the bytes; ``zoo.load`` reads it. Returns the sha256."""
    from .weights import flatten, nest, save

    return save(path, nest(pack(flatten(variables))), metadata)


def smallest(kernel: Any, fraction: float) -> np.ndarray:
    """Mask, True for what stays: exactly floor(fraction * n) weights of least magnitude go.

    Equal magnitudes go in the order in which they lie.

    Raises:
      ValueError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction {fraction}: the part of the weights to leave out, 0 to 1")
    flat = np.abs(np.asarray(kernel, np.float32)).ravel()
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: int(fraction * flat.size)]] = False
    return keep.reshape(np.shape(kernel))


def masks(variables: Any, fraction: float) -> dict[str, np.ndarray]:
    """Flat name of every kernel -> :func:`smallest`: each is pruned by the same part."""
    from .weights import flatten

    flat = flatten(variables)
    return {n: smallest(leaf, fraction) for n, leaf in flat.items() if is_kernel(n, leaf)}


def prune(variables: Any, fraction: float) -> Any:
    """Variables with the smallest ``fraction`` of every kernel's weights set to zero."""
    from .weights import flatten, nest

    keep, flat = masks(variables, fraction), flatten(variables)
    return nest({n: np.where(keep[n], leaf, 0) if n in keep else leaf for n, leaf in flat.items()})

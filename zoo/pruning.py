"""The smallest weights left out.

sparse = pruning.prune(variables, 0.3)              # 30 % of every kernel is zero
"""

from __future__ import annotations

import numpy as np

from ..layers.streaming import AnyArray, Params
from .int8 import is_kernel
from .trees import flatten, nest


def smallest(kernel: AnyArray, fraction: float) -> np.ndarray:
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


def masks(variables: Params, fraction: float) -> dict[str, np.ndarray]:
    """Flat name of every kernel -> :func:`smallest`: each is pruned by the same part."""
    flat = flatten(variables)
    return {n: smallest(leaf, fraction) for n, leaf in flat.items() if is_kernel(n, leaf)}


def prune(variables: Params, fraction: float) -> Params:
    """Variables with the smallest ``fraction`` of every kernel's weights set to zero."""
    keep, flat = masks(variables, fraction), flatten(variables)
    return nest({n: np.where(keep[n], leaf, 0) if n in keep else leaf for n, leaf in flat.items()})

"""Several drawings of one depth map become one, each by a scale and a shift of its own.

Source: Ke et al., Marigold (arXiv 2312.02145), section 3.3; huggingface/diffusers,
pipelines/marigold/pipeline_marigold_depth.py (Apache-2.0), whose start, cost and solver these are.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import scipy.optimize

SMALLEST = np.float32(1e-6)  # of a range


def ensemble_depth(
    depths: np.ndarray,
    reduction: Literal["median", "mean"] = "median",
    pull: float = 0.02,
    rounds: int = 2,
    tolerance: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray]:
    """Aligns maps and joins them.

    What is sought are the scales and shifts of the least root mean squares between all pairs of
    maps, whose joint map goes from 0 to 1.

    Args:
      depths: [N, H, W], affine-invariant; N = 1 is brought to 0..1.
      reduction: of the aligned maps; of an even number the lower of the two middle ones.
      pull: weight of how far the joint map's ends are from 0 and 1.
      rounds: of the solver (BFGS), at most.
      tolerance: at which it stops.

    Returns:
      (depth float32 [H, W] from 0, near, to 1, far; how far its maps are from it, in the same unit:
      median of the distances, or standard deviation of the mean).

    Raises:
      ValueError: no map, or an unknown reduction.
    """
    depths = np.asarray(depths, np.float32)
    if depths.ndim != 3 or not len(depths):
        raise ValueError(f"depths {depths.shape}: maps [N, H, W]")
    if reduction not in ("median", "mean"):
        raise ValueError(f"reduction {reduction!r}: median or mean")
    low, high = depths.min(axis=(1, 2)), depths.max(axis=(1, 2))
    scale = 1 / np.maximum(high - low, SMALLEST)
    start = np.concatenate([scale, -scale * low]).astype(np.float64)

    def aligned(numbers: np.ndarray) -> np.ndarray:
        scale, shift = numbers.astype(np.float32).reshape(2, -1, 1, 1)
        return depths * scale + shift

    def joint(maps: np.ndarray) -> np.ndarray:
        return _median(maps) if reduction == "median" else maps.mean(axis=0)

    def cost(numbers: np.ndarray) -> float:
        maps = aligned(numbers)
        apart = (np.sqrt(np.square(a - b).mean()) for a, b in itertools.combinations(maps, 2))
        one = joint(maps)
        ends = float(np.abs(one.min())) + float(np.abs(1 - one.max()))
        return sum(map(float, apart)) + pull * ends

    if len(depths) > 1:
        found = scipy.optimize.minimize(
            cost, start, method="BFGS", tol=tolerance, options={"maxiter": rounds}
        )
        start = found.x
    maps = aligned(start)
    one = joint(maps)
    span = np.maximum(one.max() - one.min(), SMALLEST)
    if reduction == "median":
        doubt = _median(np.abs(maps - one))
    else:
        doubt = maps.std(axis=0, ddof=min(1, len(maps) - 1))
    return (one - one.min()) / span, doubt / span


def _median(maps: np.ndarray) -> np.ndarray:
    """The lower of the two middle values over the first axis, as torch takes it."""
    return np.sort(maps, axis=0)[(len(maps) - 1) // 2]

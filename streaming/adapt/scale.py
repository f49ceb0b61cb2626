"""The scale of the next picture, from what was seen in this one.

Source: Chin, Ding, Marculescu, "AdaScale: Towards Real-time Video Object Detection Using Adaptive
Scaling" (arXiv 1902.02910), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_scale(losses: Sequence[np.ndarray]) -> int:
    """Number of the scale that detects a picture best, the label a regressor learns.

    Args:
      losses: for each scale, the losses of its boxes on objects. Scales find different numbers of
        them, so that only as many as the poorest scale found are compared: each scale's smallest.

    Returns:
      The first scale of the smallest sum. Scales that find nothing are left out; if none finds
      something, the first.
    """
    found = {k: np.sort(np.asarray(one, float)) for k, one in enumerate(losses) if len(one)}
    if not found:
        return 0
    least = min(one.shape[0] for one in found.values())
    return min(found, key=lambda k: (found[k][:least].sum(), k))


def _span(scales: Sequence[float]) -> tuple[float, float]:
    low, high = min(scales), max(scales)
    if not 0 < low < high:
        raise ValueError(f"scales {list(scales)}: give at least two, above 0")
    return low / high, high / low


def scale_target(now: float, best: float, scales: Sequence[float]) -> float:
    """What the regressor answers at scale ``now`` where ``best`` is best: -1 to 1."""
    low, high = _span(scales)
    return 2 * (best / now - low) / (high - low) - 1


def next_scale(answer: float, now: float, scales: Sequence[float]) -> float:
    """Undoes :func:`scale_target`, rounded to the nearest of ``scales`` by ratio."""
    low, high = _span(scales)
    wanted = now * (low + (min(max(answer, -1.0), 1.0) + 1) / 2 * (high - low))
    return min(scales, key=lambda scale: abs(np.log(scale / max(wanted, 1e-9))))

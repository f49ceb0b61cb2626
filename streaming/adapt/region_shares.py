"""Tokens or bits for the regions of a picture, by how much an answer depends on each.

Source: Artic's context-aware streaming spends the bitrate of a picture on the regions that matter
to what was asked; the rule of shares is ours.
"""

from __future__ import annotations

import numpy as np

HALVES = 6.0  # a quantiser step of H.264 and H.265 that is 6 larger halves the bits, about


def region_budget(relevance: np.ndarray, budget: int, least: int = 0, most: int = 1 << 30):
    """Whole shares of a budget, as near to proportional to relevance as whole numbers can be.

    Args:
      relevance: any shape, at least 0: of each region, e.g. the attention that it gets.
      budget: tokens, or blocks of bits, for all regions together.
      least, most: for one region.

    Returns:
      int64 of the same shape. Its sum is ``budget``; a region gets no less than one that is less
      relevant.

    Raises:
      ValueError: relevance below 0 or not finite, or a budget that the limits leave no room for.
    """
    weight = np.asarray(relevance, float).ravel()
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("relevance is a finite number of at least 0 for each region")
    if not weight.size * least <= budget <= weight.size * most:
        raise ValueError(
            f"{budget} for {weight.size} regions of {least} to {most} each: that cannot be"
        )
    order = np.argsort(-weight, kind="stable")
    shares = _proportional(weight[order], budget, least, most)
    whole = np.floor(shares + 1e-9).astype(np.int64)
    # what rounding left over: to the most relevant that have room, one each
    while left := int(budget - whole.sum()):
        room = np.flatnonzero(whole < most)[:left]
        whole[room] += 1
    found = np.empty_like(whole)
    found[order] = whole
    return found.reshape(np.shape(relevance))


def _proportional(weight: np.ndarray, budget: int, least: int, most: int) -> np.ndarray:
    """clip(c * weight, least, most), with the c whose sum is the budget, by bisection."""
    if not weight.any():
        return np.full(weight.shape, budget / weight.size)
    low, high = 0.0, most / weight[weight > 0].min()
    high = min(high, 1e18)
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(middle * weight, least, most).sum() <= budget:
            low = middle
        else:
            high = middle
    return np.clip(low * weight, least, most)


def quantiser_offsets(shares: np.ndarray) -> np.ndarray:
    """Steps of the quantiser for each region that give it its share of the bits: 0 for the mean,
    6 fewer for twice as much. Regions without a share get +12."""
    ratio = np.asarray(shares, float) / max(float(np.mean(shares)), 1e-9)
    return np.clip(-HALVES * np.log2(np.maximum(ratio, 1e-9)), -12, 12).round().astype(int)

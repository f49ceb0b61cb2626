"""Layers whose memory is fetched while the layer before them computes.

Source: V-Rex (arXiv 2512.12284) predicts in one layer which entries of its memory the next one will
select, and fetches them meanwhile. This is the arithmetic of it, for planning.
"""

from __future__ import annotations

from collections.abc import Sequence


def prefetched(
    fetch: Sequence[float], compute: Sequence[float], right: float = 1.0, ahead: bool = True
) -> float:
    """Seconds of a pass through all layers.

    Args:
      fetch, compute: of each layer.
      right: share of what a layer needs that was predicted; the rest is fetched when it is known.
      ahead: False fetches each layer when it begins.

    One transfer runs at a time. The first layer's prediction has nothing to hide behind.

    Raises:
      ValueError: lists of different lengths, or a share that is none.
    """
    if len(fetch) != len(compute) or not 0 <= right <= 1:
        raise ValueError(f"{len(fetch)} fetches, {len(compute)} computations, right={right}")
    if not ahead:
        return float(sum(fetch) + sum(compute))
    link = now = 0.0
    for layer, (load, work) in enumerate(zip(fetch, compute, strict=True)):
        if layer == 0:
            link = now = load
        else:  # predicted entries came during the layer before; the rest waits for its turn
            now = max(now, link) + (1 - right) * load
        link = now
        if layer + 1 < len(fetch):
            link += right * fetch[layer + 1]
        now += work
    return float(now)

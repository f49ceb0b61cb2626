"""Blocks of a model over several devices, so that each takes equally long.

Source: StreamDiffusionV2, its block scheduler; its ``compute_balanced_split``
(github.com/chenfengxu714/StreamDiffusionV2, streamv2v/communication/utils.py).
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def balance_blocks(
    total: int, seconds: Sequence[float], blocks: Sequence[float], spans: Sequence[Span]
) -> list[Span]:
    """New spans of the blocks 0 .. total - 1, one per device, in order.

    Args:
      total: blocks.
      seconds: of a step of each device, with what it does beside its blocks.
      blocks: the part of it that its blocks take.
      spans: [start, end) of each device now.

    Returns:
      [start, end) of each device. Each has at least one block; together they have all of them.

    Raises:
      ValueError: lists of different lengths, more devices than blocks, or times of 0.
    """
    if not 0 < len(seconds) == len(blocks) == len(spans) <= total:
        raise ValueError(
            f"{total} blocks, {len(seconds)} times, {len(blocks)} times of blocks and "
            f"{len(spans)} spans: give one of each per device, and no more devices than blocks"
        )
    if not sum(blocks) > 0:
        raise ValueError("blocks that take no time cannot be balanced")
    one, mean = sum(blocks) / total, sum(seconds) / len(seconds)
    counts = [
        max(1, round(end - start + (mean - took) / one))
        for (start, end), took in zip(spans, seconds, strict=True)
    ]
    _settle(counts, total)
    edges = [sum(counts[:k]) for k in range(len(counts) + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _settle(counts: list[int], total: int) -> None:
    """What rounding left over goes to the device with the fewest blocks first, what is too much
    comes from the one with the most, each once per turn."""
    rest = total - sum(counts)
    step = 1 if rest > 0 else -1
    order = sorted(range(len(counts)), key=lambda k: (counts[k], k), reverse=rest < 0)
    turn = 0
    while rest:
        device = order[turn % len(order)]
        if step > 0 or counts[device] > 1:
            counts[device] += step
            rest -= step
        turn += 1

"""Detection delay: how long after an event begins a live model first says so. Host code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Event(NamedTuple):
    """An action of one box slot."""

    slot: int
    label: int
    start_frame: int
    end_frame: int  # the first frame after it


class Delay(NamedTuple):
    """Delays of the events that were detected; misses are counted apart, never averaged in."""

    detected: float  # fraction of the events; NaN without events
    median: float  # seconds, of those detected; NaN if none
    mean: float  # seconds, of those detected; NaN if none
    seconds: np.ndarray  # [events], NaN where missed


def label_runs(labels: np.ndarray) -> list[Event]:
    """Runs of frames in which a label holds, labels [T, K, C] of 0 and 1: by slot, label, time."""
    edge = np.zeros((1, *labels.shape[1:]), np.float32)
    change = np.diff(np.concatenate([edge, labels, edge]), axis=0).transpose(1, 2, 0)
    starts, ends = np.argwhere(change > 0), np.argwhere(change < 0)
    return [
        Event(int(slot), int(label), int(start), int(end))
        for (slot, label, start), (_, _, end) in zip(starts, ends, strict=True)
    ]


def detection_delay(
    scores: np.ndarray,
    events: Iterable[Event | tuple[int, int, int, int]],
    frame_rate: float,
    *,
    latency: int = 0,
    threshold: float | None = None,
    tolerance: float = 0.0,
) -> Delay:
    """Seconds from each event's start to the first correct output.

    An output counts if it is about a frame of the event, or one up to ``tolerance`` seconds after
    it. It appears ``latency`` frames later than the frame it is about, and that wait is part of
    the delay: a model with look-ahead cannot look quicker than it is. False alarms are not
    punished here, so a model that always says yes has delay 0: report it beside a mAP.

    Args:
      scores: [T, K, C]; scores[t] is the output about frame t. A row with NaN says nothing.
      events: (slot, label, start_frame, end_frame), the end exclusive.
      frame_rate: frames/s. latency: the model's look-ahead, frames. tolerance: seconds.
      threshold: right if the label's score is above it (multi-label); if not given, right if the
        label's score is above all others (a tie is not right).

    Raises:
      ValueError: a shape, an event or a number that makes no sense; the text says which.
    """
    scores = np.asarray(scores)
    if scores.ndim != 3:
        raise ValueError(f"scores {scores.shape} must be [T, K, C]")
    frames, slots, classes = scores.shape
    if not frame_rate > 0 or latency < 0 or not tolerance >= 0:
        raise ValueError(
            f"frame_rate {frame_rate} must be above 0, latency {latency} and tolerance "
            f"{tolerance} must not be negative"
        )
    if threshold is None and classes < 2:
        raise ValueError("with one class the highest score is always right: give a threshold")
    # The epsilon keeps 0.3 s at 10 frames/s three frames in spite of rounding.
    extra = int(np.floor(tolerance * frame_rate + 1e-9))
    seconds = []
    for number, (slot, label, start, end) in enumerate(events):
        if not (0 <= slot < slots and 0 <= label < classes and 0 <= start < end):
            raise ValueError(
                f"event {number} (slot {slot}, label {label}, frames {start} to {end}) does not "
                f"fit scores [{frames}, {slots}, {classes}]"
            )
        if start >= frames:
            raise ValueError(f"event {number} starts at frame {start} of {frames}")
        said = scores[start : end + extra, slot]
        own = said[:, label]
        if threshold is not None:
            right = own > threshold
        else:
            right = own > np.delete(said, label, axis=1).max(axis=1)
        right &= ~np.isnan(said).any(axis=1)
        first = int(right.argmax())
        seconds.append((first + latency) / frame_rate if right[first] else np.nan)
    delays = np.asarray(seconds, np.float64)
    found = delays[~np.isnan(delays)]
    return Delay(
        len(found) / len(delays) if len(delays) else float("nan"),
        float(np.median(found)) if len(found) else float("nan"),
        float(found.mean()) if len(found) else float("nan"),
        delays,
    )

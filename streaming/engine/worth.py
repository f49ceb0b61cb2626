"""Who is served where not all can be in time: by what an answer is worth per second it takes."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapt.goodput import Request, priorities

ORDERS = ("fair", "goodput")
SCALE = 100  # whole units of worth: JITServe counts tokens


def values(waiting: Sequence[tuple[float, float, float]], now: float, unit: float) -> list[float]:
    """JITServe's priority of each frame, the smaller is served first.

    Args:
      waiting: (when it arrived, its budget in seconds, the worth of its answer).
      now: seconds.
      unit: seconds of a step.

    A frame is a request of one token: its deadline is its own, and what comes after it is worth
    less, the later the less.
    """
    requests = [
        Request("throughput", arrived, round(SCALE * worth), 1, budget)
        for arrived, budget, worth in waiting
    ]
    return [priority.value for priority in priorities(requests, now, unit)]

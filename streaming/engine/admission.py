"""Whether a set of streams can be held within their budgets, estimated from measured costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .costs import Costs


class Demand(NamedTuple):
    """What one stream asks for: frames per second, and seconds from arrival to answer."""

    fps: float
    budget: float


class Refused(RuntimeError):
    """A stream that cannot be held; the message says why and what would help."""


def load(costs: Costs, demands: Iterable[Demand]) -> float:
    """Share of the time that steps take, 1 is all of it.

    A step serves at most one frame of a stream, so streams of unequal rates do not always share
    one: with rates f1 >= f2 >= ..., (f_j - f_j+1) times a second j streams have a frame.
    """
    rates = sorted((d.fps for d in demands), reverse=True)
    total = 0.0
    for j, rate in enumerate(rates, 1):
        less = rates[j] if j < len(rates) else 0.0
        if rate > less:
            total += (rate - less) * costs.cheapest(j)
    return total


def refusal(costs: Costs, demands: list[Demand], *, max_load: float, depth: int = 1) -> str | None:
    """Why these streams together cannot be held, or None.

    Two conditions: the load is at most ``max_load``; and if a frame of every stream came at once,
    right after ``depth`` other steps were launched, each would be answered within its budget.
    """
    share = load(costs, demands)
    if share > max_load:
        return (
            f"{len(demands)} streams at {sum(d.fps for d in demands):g} frames/s in all would "
            f"keep it busy {share:.0%} of the time and {max_load:.0%} is the limit; give "
            f"{_rounded(max_load / costs.cheapest(len(demands)))} frames/s each or less (--fps), "
            "or pause or remove a stream"
        )
    ahead = depth * max(costs.high(costs.bucket(min(len(demands), b))) for b in costs.buckets)
    for budget in sorted({d.budget for d in demands}):
        urgent = sum(d.budget <= budget for d in demands)
        worst = ahead + costs.cheapest(urgent, high=True)
        if worst > budget:
            return (
                f"a frame of each stream at once ({urgent} in all, and {1e3 * ahead:.0f} ms of "
                f"steps before them) would take {1e3 * worst:.0f} ms and the latency budget is "
                f"{1e3 * budget:g} ms; give {math.ceil(1e3 * worst)} ms or more (--budget-ms), "
                "or remove a stream"
            )
    return None


def _rounded(fps: float) -> str:
    """Down to a whole number, or where that would be 0 to one digit that counts."""
    if fps >= 1:
        return str(math.floor(fps))
    digits = 10.0 ** math.floor(math.log10(fps))
    return f"{math.floor(fps / digits) * digits:g}"

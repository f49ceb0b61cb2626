"""Priorities of requests by what they are worth per second that they still need.

For a language model a request is an answer of unknown length with a deadline; for video, a stream
whose deadline is its next frame.

Source: JITServe; github.com/UIUC-MLSys/JITServe, policy.py and slo_scheduler.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

OUTPUT_WORTH = 8  # an output token counts as so many input tokens


@dataclasses.dataclass(frozen=True)
class Request:
    """A request. Times in seconds, lengths in tokens.

    Attributes:
      kind: "latency" (its first token has a deadline of its own), "throughput" (the whole answer
        has one) or "compound" (it is one of several that end together).
      group: of a compound request.
      arrival: when it came.
      input: length of the prompt.
      predicted: upper estimate of the answer's length; ``done`` of it are there.
      deadline: of the whole answer, after the arrival.
      first_deadline: of the first token, after the arrival.
      begun: the first token is there.
      gained: what was earned with the tokens that are there.
    """

    kind: Literal["latency", "throughput", "compound"]
    arrival: float
    input: int
    predicted: int
    deadline: float
    first_deadline: float = 0.0
    begun: bool = False
    gained: float = 0.0
    done: int = 0
    group: int = -1

    @property
    def left(self) -> int:
        """Tokens that are still to come."""
        return self.predicted - self.done


@dataclasses.dataclass(frozen=True)
class Priority:
    """What a request would earn, the seconds that it still needs, and -reward / seconds: the
    smaller ``value`` is served first."""

    reward: float
    remaining: float
    value: float


def _kept(deadline: float, took: float, penalty: float) -> float:
    """Share of the worth that is left, 1 in time."""
    return min(max(deadline / max(took, 1e-6), 1e-6), 1.0) ** penalty


def _reward(request: Request, now: float, unit: float, remaining: float, penalty: float) -> float:
    waited = now - request.arrival
    kept = _kept(request.deadline, waited + remaining, penalty)
    if request.kind != "latency":
        return (request.input + OUTPUT_WORTH * request.predicted) * kept
    if request.begun:  # what was earned is kept, only the rest can still be lost
        return request.gained + OUTPUT_WORTH * request.left * kept
    first = _kept(request.first_deadline, waited + unit, penalty)
    return request.input * first + OUTPUT_WORTH * request.predicted * kept


def priorities(
    requests: Sequence[Request], now: float, unit: float, penalty: float = 1.0
) -> list[Priority]:
    """The priority of each request.

    Args:
      now: seconds.
      unit: seconds of one token, the mean of the last steps.
      penalty: exponent; the larger, the less a late answer is worth.

    A compound request has the priority of its group: rewards and remaining times add up.
    """
    groups: dict[object, list[Request]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(_key(index, request), []).append(request)
    of_group = {}
    for key, members in groups.items():
        remaining = unit * sum(request.left for request in members)
        reward = sum(_reward(request, now, unit, remaining, penalty) for request in members)
        of_group[key] = Priority(reward, remaining, -reward / max(remaining, 1e-6))
    return [of_group[_key(index, request)] for index, request in enumerate(requests)]


def _key(index: int, request: Request) -> object:
    return ("group", request.group) if request.kind == "compound" else index


def window(
    values: Sequence[float], lengths: Sequence[int], batch: int, spread: int = 2
) -> list[int]:
    """A batch of requests that are worth much and about equally long, by number.

    Args:
      values: smaller is better (:class:`Priority`).
      lengths: tokens of each request.
      batch: requests of a step.
      spread: it is chosen from the best batch * spread requests.

    Of those sorted by length, the ``batch`` neighbours with the smallest sum of values.

    Raises:
      ValueError: batch or spread below 1.
    """
    if batch < 1 or spread < 1:
        raise ValueError(f"batch={batch}, spread={spread}: both are at least 1")
    best = sorted(range(len(values)), key=lambda k: values[k])[: batch * spread]
    best.sort(key=lambda k: lengths[k])
    if len(best) <= batch:
        return best
    starts = range(len(best) - batch + 1)
    start = min(starts, key=lambda s: sum(values[k] for k in best[s : s + batch]))
    return best[start : start + batch]


def upper_length(history: Sequence[int], done: int, share: float = 0.95) -> int:
    """Upper estimate of an answer's length: the ``share`` quantile of those past lengths that are
    longer than what is there already. It is refined by asking again as tokens come.

    JITServe asks a quantile forest over the prompt; this one knows lengths alone.
    """
    longer = sorted(length for length in history if length > done)
    if not longer:
        return done + 1
    return longer[min(int(share * len(longer)), len(longer) - 1)]

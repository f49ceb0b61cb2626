"""Orders of service compared by goodput: first come, shortest, earliest deadline, JITServe's.

    python -m streamzoo.streaming.adapt.goodput_trial

Simulated: requests of three kinds arrive at random; a step gives one token to each of ``batch``
requests. Goodput is what was earned in time: the input's and 8 times the answer's tokens of every
request that ended before its deadline, over what all were worth. While the deadlines can be held,
the earliest one first holds them; where they cannot, this order ruins the most and goodput wins.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

from .goodput import OUTPUT_WORTH, Request, priorities, upper_length

UNIT = 0.02  # seconds of a step


@dataclasses.dataclass
class _Job:
    request: Request
    length: int  # what it turns out to be


Order = Callable[[Sequence[_Job], float], list[float]]


def first_come(jobs: Sequence[_Job], _: float) -> list[float]:
    return [job.request.arrival for job in jobs]


def shortest(jobs: Sequence[_Job], _: float) -> list[float]:
    return [job.request.left for job in jobs]


def earliest_deadline(jobs: Sequence[_Job], _: float) -> list[float]:
    return [job.request.arrival + job.request.deadline for job in jobs]


def by_goodput(jobs: Sequence[_Job], now: float) -> list[float]:
    return [p.value for p in priorities([job.request for job in jobs], now, UNIT)]


ORDERS: dict[str, Order] = {
    "first come": first_come,
    "shortest": shortest,
    "earliest deadline": earliest_deadline,
    "goodput": by_goodput,
}


def mix(count: int, rate: float, seed: int) -> list[_Job]:
    """Requests at ``rate`` per second: short ones in a hurry, long ones with time."""
    rng, now, jobs, history = random.Random(seed), 0.0, [], []
    for _ in range(count):
        now += rng.expovariate(rate)
        hurried = rng.random() < 0.5
        length = max(4, round(rng.lognormvariate(3.5 if hurried else 4.8, 0.6)))
        history.append(length)
        slack = rng.uniform(1.2, 4.0) if hurried else rng.uniform(2.0, 12.0)
        request = Request(
            "latency" if hurried else "throughput", now, rng.randint(10, 400),
            upper_length(history, 0), UNIT * length * slack + 0.2, first_deadline=0.5,
        )  # fmt: skip
        jobs.append(_Job(request, length))
    return jobs


def serve(jobs: Sequence[_Job], order: Order, batch: int, every: int = 10) -> float:
    """The goodput, 0 to 1. The order is renewed every ``every`` steps."""
    waiting, active, now, earned = list(jobs), [], 0.0, 0
    history = [job.length for job in jobs]
    chosen: list[_Job] = []
    step = 0
    while waiting or active:
        while waiting and waiting[0].request.arrival <= now:
            active.append(waiting.pop(0))
        if not active:
            now = waiting[0].request.arrival
            continue
        if step % every == 0 or len(chosen) < min(batch, len(active)):
            values = order(active, now)
            ranked = sorted(range(len(active)), key=values.__getitem__)
            chosen = [active[k] for k in ranked[:batch]]
        now, step = now + UNIT, step + 1
        for job in list(chosen):
            r = job.request
            done = r.done + 1
            gained = r.gained + OUTPUT_WORTH + (0 if r.begun else r.input)
            predicted = max(r.predicted, done + 1)
            if step % every == 0:  # what is said longer than this says how much is left
                predicted = max(upper_length(history, done), done + 1)
            job.request = dataclasses.replace(
                r, done=done, begun=True, gained=gained, predicted=predicted
            )
            if done >= job.length:
                worth = r.input + OUTPUT_WORTH * job.length
                earned += worth * (now - r.arrival <= r.deadline)
                active.remove(job)
                chosen.remove(job)
    return earned / sum(j.request.input + OUTPUT_WORTH * j.length for j in jobs)


def main() -> None:
    print("requests/s  " + "  ".join(f"{name:>17}" for name in ORDERS))
    for rate in (8, 16, 24):
        cells = []
        for order in ORDERS.values():
            values = [serve(mix(300, rate, seed), order, batch=8) for seed in range(3)]
            cells.append(f"{min(values):7.1%} ..{max(values):7.1%}")
        print(f"{rate:10}  " + "  ".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()

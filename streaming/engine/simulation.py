"""A discrete-event simulation of the engine.

It runs the engine's own scheduler, queues and books on a clock of its own; the costs of a step
are measured ones. The same seed gives the same figures.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ...layers.streaming import Json
from .admission import Refused
from .costs import Costs
from .gears import Gear
from .governor import Governor
from .ledger import Snapshot
from .queues import SKIPPED
from .scheduler import BUDGET, Batch, Scheduler


@dataclasses.dataclass(frozen=True)
class Load:
    """What comes in, and onto what.

    Attributes:
      streams, fps: streams of ``fps`` frames per second each, at random phases.
      jitter: seconds; a frame comes up to so much later than its time.
      bursty, burst: share of the streams whose frames come ``burst`` at a time.
      seconds: of arrivals; what waits then is still served.
      events: share of the frames that are marked as events.
      budget, policy, capacity: see :meth:`Scheduler.admit`.
      accelerators, slots: how many, and streams that each can hold (None: as many as come).
      admit: whether to refuse streams that cannot be held in time.
      depth, max_load, order: see :class:`Scheduler`.
      worths: of the streams' answers, in turn.
      contention: (seconds, times as slow as alone), one after the other; alone after the last.
    """

    streams: int
    fps: float = 15.0
    jitter: float = 0.005
    bursty: float = 0.0
    burst: int = 15
    seconds: float = 20.0
    events: float = 0.0
    budget: float = BUDGET
    policy: str = "latest"
    capacity: int | None = None
    accelerators: int = 1
    slots: int | None = None
    admit: bool = False
    depth: int = 2
    max_load: float = 0.9
    seed: int = 0
    order: str = "fair"
    worths: tuple[float, ...] = (1.0,)
    contention: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        if not self.worths or any(slow < 1 for _, slow in self.contention):
            raise ValueError(f"worths={self.worths}, contention={self.contention}: one, at least 1")
        wrong = [
            f"{name}={getattr(self, name)}"
            for name in ("streams", "fps", "burst", "seconds", "budget", "accelerators")
            if not getattr(self, name) > 0
        ]
        shares = self.bursty, self.events
        if wrong or self.jitter < 0 or not all(0 <= share <= 1 for share in shares):
            rest = f"jitter={self.jitter}, bursty={self.bursty}, events={self.events}"
            raise ValueError(
                f"{', '.join(wrong) or rest}: counts and rates are above 0, jitter at least 0, "
                "bursty and events shares from 0 to 1"
            )

    def slow(self, now: float) -> float:
        """How much slower steps are at a time than alone."""
        end = 0.0
        for seconds, slow in self.contention:
            end += seconds
            if now < end:
                return slow
        return 1.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it. Latencies in seconds from arrival to answer, of completed frames.

    Attributes:
      p50, p95, p99, worst: percentiles of the latency.
      fps: lowest, mean and highest completed frames per second over the streams.
      utilisation: busy share of each accelerator.
      books: the sum over all streams.
      refused: streams that were not admitted, and ``reason`` of the first.
      batch: mean frames per step.
      events: frames marked as events that came, and that were answered.
      accuracy: mean of the gears of the computed frames; 1 without gears.
      in_time: answers in time by stream.
    """

    p50: float
    p95: float
    p99: float
    worst: float
    fps: tuple[float, float, float]
    utilisation: list[float]
    books: Snapshot
    refused: int
    reason: str | None
    batch: float
    events: tuple[int, int] = (0, 0)
    accuracy: float = 1.0
    in_time: dict[Any, int] = dataclasses.field(default_factory=dict)

    @property
    def missed(self) -> float:
        """Share of the frames that were to be computed and had no answer in time."""
        books = self.books
        asked = books.received + books.refused - books.dropped.get(SKIPPED, 0)
        return 1 - (books.completed - books.late) / max(asked, 1)

    def holds(self, budget: float) -> bool:
        """p99 within the budget, no frame dropped or refused, no stream refused."""
        if self.books.dropped or self.books.refused or self.refused:
            return False
        return self.p99 <= budget

    def to_dict(self) -> Json:
        """For JSON."""
        return dict(dataclasses.asdict(self), books=self.books.to_dict())


def arrivals(load: Load, bursty: bool, rng: random.Random) -> list[float]:
    """Times of one stream's frames, in order."""
    period, phase = 1 / load.fps, rng.random() / load.fps
    group = load.burst if bursty else 1
    phase += rng.randrange(group) * period
    times = []
    # The frames of a burst come together.
    while (at := phase + len(times) // group * group * period) < load.seconds:
        times.append(at + rng.random() * load.jitter)
    return sorted(times)


def simulate(load: Load, costs: Costs, gears: Sequence[Gear] = ()) -> Outcome:
    """Runs the load until its last frame is answered or dropped. ``gears``: the engine chooses one
    as it goes; without, its steps cost ``costs``."""
    return _Simulation(load, costs, gears).run()


class _Simulation:
    def __init__(self, load: Load, costs: Costs, gears: Sequence[Gear] = ()):
        self.load, self.costs, self.rng = load, costs, random.Random(load.seed)
        slots = load.streams if load.slots is None else load.slots
        self.machines = [
            Scheduler(
                costs,
                slots,
                max_load=load.max_load,
                depth=load.depth,
                order=load.order,
                governor=Governor(gears, max_load=load.max_load) if gears else None,
            )  # fmt: skip
            for _ in range(load.accelerators)
        ]
        self.free = [0.0] * load.accelerators
        self.busy = [0.0] * load.accelerators
        self.latencies: list[float] = []
        self.batches: list[int] = []
        self.events: list[tuple[float, int, int, Any]] = []
        self.number = itertools.count()
        self.refused, self.reason = 0, None
        self.came = self.served = 0  # events
        self.took: dict[Batch, float] = {}
        self.earned: Counter[Hashable] = Counter()
        self.accuracy: list[float] = []

    def _at(self, time: float, machine: int, what: Any) -> None:
        heapq.heappush(self.events, (time, next(self.number), machine, what))

    def _place(self) -> None:
        """Streams onto the least loaded machine; equal streams go round."""
        load = self.load
        rank = [(0.0, m) for m in range(load.accelerators)]
        for stream in range(load.streams):
            _, machine = heapq.heappop(rank)
            scheduler = self.machines[machine]
            try:
                scheduler.admit(
                    stream, load.fps, budget=load.budget, policy=load.policy,
                    capacity=load.capacity, check=load.admit,
                    worth=load.worths[stream % len(load.worths)],
                )  # fmt: skip
            except Refused as error:  # the least loaded refuses: so do the others
                self.refused, self.reason = load.streams - stream, str(error)
                return
            heapq.heappush(rank, (float(len(scheduler.streams)), machine))
            times = arrivals(load, self.rng.random() < load.bursty, self.rng)
            if times:
                self._at(times[0], machine, (stream, times, 0))

    def run(self) -> Outcome:
        self._place()
        while self.events:
            now, _, machine, what = heapq.heappop(self.events)
            scheduler = self.machines[machine]
            if isinstance(what, Batch):
                self._end(what, now, scheduler)
            else:
                stream, times, k = what
                event = self.load.events > 0 and self.rng.random() < self.load.events
                self.came += event
                scheduler.offer(stream, None, now, event=event)
                if k + 1 < len(times):
                    self._at(times[k + 1], machine, (stream, times, k + 1))
            while (batch := scheduler.next(now)) is not None:
                start = max(now, self.free[machine])
                seconds = self._seconds(batch, scheduler, start)
                self.free[machine] = start + seconds
                self.busy[machine] += seconds
                self.batches.append(len(batch.rows))
                self._at(start + seconds, machine, batch)
        return self._outcome()

    def _seconds(self, batch: Batch, scheduler: Scheduler, start: float) -> float:
        costs, governor = self.costs, scheduler.governor
        if governor is not None:
            gear = governor.gears[batch.gear]
            costs = gear.costs
            self.accuracy += [gear.accuracy] * len(batch.rows)
        seconds = costs.sample(batch.bucket, self.rng) * self.load.slow(start)
        if self.load.contention or governor is not None:
            self.took[batch] = seconds  # what the engine measures
        return seconds

    def _end(self, batch: Batch, now: float, scheduler: Scheduler) -> None:
        kept = scheduler.done(batch, now, self.took.pop(batch, None))
        items = [item for _, item in kept]
        self.earned.update(state.name for state, item in kept if now <= item.deadline)
        self.latencies += [now - item.arrived for item in items]
        self.served += sum(item.event for item in items)

    def _outcome(self) -> Outcome:
        books, completed = Snapshot(), []
        for scheduler in self.machines:
            books += scheduler.ledger.total()
            completed += [b.completed for b in scheduler.ledger.report().values()]
        span = max(self.load.seconds, *self.free)
        times = np.asarray(self.latencies or [math.nan])
        p50, p95, p99, worst = (float(v) for v in np.percentile(times, [50, 95, 99, 100]))
        rates = np.asarray(completed or [0]) / self.load.seconds
        return Outcome(
            p50, p95, p99, worst,
            (float(rates.min()), float(rates.mean()), float(rates.max())),
            [b / span for b in self.busy],
            books, self.refused, self.reason,
            sum(self.batches) / max(len(self.batches), 1), (self.came, self.served),
            float(np.mean(self.accuracy)) if self.accuracy else 1.0, dict(self.earned),
        )  # fmt: skip


def one_machine(load: Load, streams: int) -> Load:
    """``streams`` streams on one accelerator: machines do not notice each other."""
    return dataclasses.replace(load, streams=streams, accelerators=1, admit=False)


def most_streams(load: Load, costs: Costs) -> int:
    """Most streams that all accelerators together hold: p99 within the budget and no drop."""

    def holds(streams: int) -> bool:
        return simulate(one_machine(load, streams), costs).holds(load.budget)

    # No more than the machine could do if it were never idle.
    peak = max(b / costs.mean(b) for b in costs.buckets) / load.fps
    low, high = 0, math.floor(peak) + 2
    if load.slots is not None:
        high = min(high, load.slots + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low * load.accelerators


def curve(load: Load, costs: Costs, points: int = 8) -> list[tuple[int, Outcome]]:
    """[(streams of all accelerators, outcome)] up to a quarter more than the load's streams."""
    most = max(1, math.ceil(1.25 * load.streams / load.accelerators))
    counts = sorted({max(1, round(most * k / points)) for k in range(1, points + 1)})
    return [(n * load.accelerators, simulate(one_machine(load, n), costs)) for n in counts]

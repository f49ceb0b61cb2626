"""A trial: streams of random frames through an engine on the wall clock, every frame timed.

The cameras, the engine and the readers share one process, as they do in ``streamzoo serve``. A
frame's latency counts from the moment at which its camera was to take it, not from when it was
handed over: where the process is too busy to take frames in time, that wait is part of it.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from collections.abc import Callable

import numpy as np

from ...zoo.ranges import Checked, Count, Positive, Whole
from ..step import Step
from .costs import Costs
from .engine import Engine
from .ledger import Snapshot
from .scheduler import BUDGET
from .worker import EngineError

LEAD = 0.2  # seconds between the last preparation and the first frame
WARM = 0.1  # share of a trial whose latencies do not count
PICTURES = 4  # different frames that the cameras show in turn


@dataclasses.dataclass(frozen=True)
class Plan(Checked):
    """What a trial does; the same plan shows the same frames at the same phases.

    Attributes:
      streams, fps: streams of ``fps`` frames per second each, at random phases.
      seconds: how long the cameras run.
      seed: of the frames and the phases.
      budget: seconds from a frame to its answer, by which the engine orders frames.
      depth: steps launched ahead.

    Raises:
      ValueError: a number that is not above 0 (a seed below 0), or too few frames to measure.
    """

    streams: Count
    fps: Positive = 15.0
    seconds: Positive = 20.0
    seed: Whole = 0
    budget: Positive = BUDGET
    depth: Count = 2

    def __post_init__(self):
        super().__post_init__()
        if self.frames < 10:
            raise ValueError(
                f"{self.seconds:g} seconds at {self.fps:g} frames/s are {self.frames} frames of a "
                "stream: give at least 10"
            )

    @property
    def frames(self) -> int:
        """Frames of each stream."""
        return int(self.seconds * self.fps)

    def draw(self, size: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray]:
        """(pictures uint8 [h, w, 3] shown in turn, phases [streams] in seconds)."""
        rng = np.random.default_rng(self.seed)
        pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(PICTURES)]
        return pictures, rng.random(self.streams) / self.fps


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of it: N answered frames, in the order of their answers.

    Attributes:
      stream: [N] number of the frame's stream.
      captured: [N] seconds from the trial's beginning to when the frame was to be taken.
      offered: [N] the same, to when it was handed to the engine.
      answered: [N] the same, to its answer in the reader's hands.
      costs: seconds of a step by itself, per batch size, measured before the streams came.
      books: where all frames went.
    """

    plan: Plan
    stream: np.ndarray
    captured: np.ndarray
    offered: np.ndarray
    answered: np.ndarray
    costs: Costs
    books: Snapshot

    def latencies(self, since: str = "captured") -> np.ndarray:
        """Seconds from ``captured`` or ``offered`` to the answer; the first tenth of the trial
        is warm-up and left out."""
        counted = self.offered > WARM * self.plan.seconds
        return (self.answered - getattr(self, since))[counted]

    def rates(self) -> np.ndarray:
        """[streams] frames answered per second of each stream."""
        count = np.bincount(self.stream, minlength=self.plan.streams)
        return count * self.plan.fps / self.plan.frames

    def holds(self, budget: float | None = None) -> bool:
        """Whether no frame was dropped and the 99th percentile is within the budget (seconds;
        default the plan's)."""
        if self.books.dropped or not len(self.latencies()):
            return False
        limit = self.plan.budget if budget is None else budget
        return bool(np.percentile(self.latencies(), 99) <= limit)


async def run_trial(
    step: Step, plan: Plan, *, ready: Callable[[Costs], None] | None = None
) -> Trial:
    """Runs a plan on a fresh engine.

    Args:
      ready: called when all is compiled and timed, with the costs of a step alone.

    Raises:
      EngineError: the engine or a step failed, or its books do not balance.
    """
    pictures, phases = plan.draw(step.card.input_size)
    engine = Engine(step, slots=plan.streams, depth=plan.depth)
    rows: list[tuple[float, ...]] = []
    failed: list[str] = []
    async with engine:
        costs = copy.deepcopy(engine.scheduler.costs)  # later steps go into the engine's own
        if ready is not None:
            ready(costs)
        begin = time.monotonic() + LEAD
        offered: list[dict[int, float]] = [{} for _ in range(plan.streams)]

        async def camera(number, stream):
            for k in range(plan.frames):
                due = begin + float(phases[number]) + k / plan.fps
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                now = time.monotonic()
                index = stream.offer(pictures[k % PICTURES], due)
                if index is not None:
                    offered[number][index] = now
            stream.finish()

        async def reader(number, stream):
            async for answer in stream:
                if answer.error is not None:
                    failed.append(f"frame {answer.index} of stream {number}: {answer.error}")
                times = (answer.time, offered[number].pop(answer.index), time.monotonic())
                rows.append((number, *(t - begin for t in times)))

        add = lambda k: engine.add(k, plan.fps, budget=plan.budget, check=False)
        streams = [add(k) for k in range(plan.streams)]
        await asyncio.gather(
            *(camera(k, s) for k, s in enumerate(streams)),
            *(reader(k, s) for k, s in enumerate(streams)),
        )
        books = engine.scheduler.ledger.total()
    if failed:
        raise EngineError(f"{len(failed)} frames failed, the first: {failed[0]}")
    if not books.balanced or books.received != plan.streams * plan.frames:
        raise EngineError(f"the books do not balance: {books}")
    stream, captured, given, answered = np.asarray(rows, np.float64).reshape(-1, 4).T
    return Trial(plan, stream.astype(int), captured, given, answered, costs, books)

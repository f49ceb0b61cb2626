"""A session that keeps a target of time per frame: it chooses how each frame is computed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .adapt.branch_scheduler import Branch, BranchScheduler
from .engine.gears import Branches
from .portable import in_turn
from .session import Result, Session
from .slim import slim
from .step import Step
from .variants import Variant, shrunk

TIMED = 5  # steps of each variant


class AdaptiveSession(Session):
    """A session whose frames take ``target`` seconds in the mean, where they can.

    Each variant is compiled and timed when the session begins. A frame that is left out has the
    answer of the last computed one.

    Args:
      target: seconds per frame.
      branches: of :func:`.ways.branches_of`, for this size.
      clock: seconds, for the time that a step takes.

    Attributes:
      scheduler: says which branch was chosen.
      computed: frames that were not left out; frames by branch name: ``used``.
    """

    def __init__(
        self,
        step: Step,
        frame_shape: tuple[int, int] | None,
        target: float,
        branches: Branches,
        *,
        fps: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__(step, frame_shape, fps=fps)
        self._clock = clock
        self._variants = (Variant(step, self.frame_shape), *branches.variants)
        self._ways = branches.ways
        seconds = [self._timed(variant) for variant in self._variants]
        self.scheduler = BranchScheduler(
            [
                Branch(self._variants[w.variant].size, 1.0, w.every,
                       self._variants[w.variant].step.precision, w.accuracy, seconds[w.variant])
                for w in self._ways
            ],
            target,
        )  # fmt: skip
        self.computed, self.used = 0, dict.fromkeys((w.name for w in self._ways), 0)
        self._last: Any = None

    def _timed(self, variant: Variant) -> float:
        """The median of a few steps, on a carry that is thrown away."""
        carry, found = self._step.init_carry(1, self.frame_shape), []
        frame = np.zeros((1, 1, *self.frame_shape, 3), np.uint8)
        for number in range(TIMED + 1):
            start = self._clock()
            extras = {k: np.ones_like(v) for k, v in self._extras(None).items()}
            carry, out = variant.step(carry, shrunk(frame, variant.size), **extras)
            jax.device_get(slim(out))
            if number:  # the first one compiles
                found.append(self._clock() - start)
        return max(float(np.median(found)), 1e-9)

    @in_turn
    def push(self, frame: np.ndarray, time_s: float | None = None) -> Result[Any]:
        """As :meth:`Session.push`."""
        _, computes = self.scheduler.frame("stream", self.frames)
        way = self._ways[self.scheduler.chosen]
        self.used[way.name] += 1
        if not computes and self._last is not None:
            return self._held(frame, time_s)
        self.computed += 1
        variant = self._variants[way.variant]
        batch, framed = self._frame(frame)
        start, began = time.perf_counter(), self._clock()
        batch = shrunk(batch, variant.size)
        self._carry, out = variant.step(self._carry, batch, **self._extras(time_s))
        result = self._result(out, start, time_s, framed, advance=1)
        self.scheduler.took(self._clock() - began)
        self._last = result
        return result

    def _held(self, frame: np.ndarray, time_s: float | None) -> Result[Any]:
        self._frame(frame)  # a wrong one is refused here, too
        now = time.monotonic() - self._began if time_s is None else time_s
        result = dataclasses.replace(self._last, index=self.frames, time=now, milliseconds=0.0)
        self.frames += 1
        return result

    def told(self) -> str:
        """What is to be said at the end: how often each branch was used."""
        shares = {name: n / max(self.frames, 1) for name, n in self.used.items() if n}
        most = sorted(shares.items(), key=lambda one: -one[1])
        ran = "; ".join(f"{share:.0%} {name}" for name, share in most)
        return f"branches: {ran}; {self.computed} of {self.frames} frames computed"

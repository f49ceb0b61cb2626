"""Video that is made while it is written: a schedule of classes, blocks, and what they cost."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_AT = re.compile(r"(?P<at>\d+(?:\.\d*)?|\.\d+)")


@dataclasses.dataclass(frozen=True)
class Switch:
    """A class from a time on.

    Attributes:
      at: seconds that were asked for.
      name: of the class.
      block: the first block that follows it; blocks are whole, so it may begin later than ``at``.
    """

    at: float
    name: str
    block: int

    def late(self, seconds_per_block: float) -> float:
        """Seconds that it waits for its block."""
        return self.block * seconds_per_block - self.at


def switches(
    first: str | None, later: list[tuple[str, str]], seconds: float, per_block: float,
    check: Callable[[str | None], Any],
) -> list[Switch]:  # fmt: skip
    """The schedule, by block.

    Args:
      first: class of the beginning, None for none.
      later: (seconds as text, class) in any order.
      seconds: of the whole video.
      per_block: seconds of a block.
      check: raises ValueError for a class that there is not.

    Raises:
      ValueError: what is no time, a time outside of the video, or two switches for one block.
    """
    check(first)
    plan: list[Switch] = []
    for text, name in later:
        if not _AT.fullmatch(text):
            raise ValueError(f"--at {text} {name}: {text!r} is no number of seconds from 0 on")
        at = float(text)
        if not 0 < at < seconds:
            raise ValueError(f"--at {text} {name}: the video has {seconds:g} s; give a time in it")
        try:
            check(name)
        except ValueError as error:
            raise ValueError(f"--at {text}: {error}") from None
        # a hair less: 1.75 s / 0.25 s may come out above 7
        plan.append(Switch(at, name, int(np.ceil(at / per_block - 1e-9))))
    plan.sort(key=lambda s: (s.block, s.at))
    for one, two in zip(plan, plan[1:], strict=False):
        if one.block == two.block:
            raise ValueError(
                f"--at {one.at:g} {one.name} and --at {two.at:g} {two.name} meet in one block of"
                f" {per_block:g} s; leave one out"
            )
    return plan


@dataclasses.dataclass
class Costs:
    """What blocks took, in seconds; the first of each kind waits for the compiler."""

    block: int
    made: list[float] = dataclasses.field(default_factory=list)  # denoising alone
    drawn: list[float] = dataclasses.field(default_factory=list)  # with pictures and file
    cold: float | None = None  # until the first frame, compiling included
    warm: float | None = None  # the first frame of a second stream

    @property
    def frames(self) -> int:
        return len(self.drawn) * self.block

    def rate(self, of: list[float]) -> float:
        """Frames per second of the median block but the first."""
        later = of[1:] or of
        return self.block / max(float(np.median(later)), 1e-9) if later else 0.0

    def line(self) -> str:
        """One line for the user."""
        p95 = 1e3 * float(np.percentile(self.drawn[1:] or self.drawn, 95)) if self.drawn else 0.0
        first = "" if self.cold is None else f"; first frame after {self.cold:.2f} s cold"
        first += "" if self.warm is None else f", {self.warm:.3f} s warm"
        return (
            f"{self.frames} frames; frames/s: {self.rate(self.made):.0f} made,"
            f" {self.rate(self.drawn):.0f} with pictures and file; a block p95 {p95:.0f} ms{first}"
        )


def blocks(
    generator: Any, conditions: Callable[[int], tuple[np.ndarray, bool]], count: int, seed: int
) -> Iterator[tuple[int, np.ndarray, float]]:
    """(block, its latents [F, ...], seconds it took) of one stream, without end if ``count`` < 0.

    conditions: block -> (condition [1, K, D], it is a new one).
    """
    state, block = generator.start(1, seed=seed), 0
    while block != count:
        began = time.perf_counter()
        condition, new = conditions(block)
        if new and block:
            state = generator.switch(state, condition)
        state, made = generator.step(state, condition)
        latents, valid = np.asarray(made.latents)[0], bool(made.valid[0])
        if valid:  # before the latency has passed nothing is shown
            yield block, latents, time.perf_counter() - began
        block += 1

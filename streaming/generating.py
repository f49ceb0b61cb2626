"""Video that is made while it is written: a schedule of classes, blocks, and what they cost."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..zoo.generate.generator import Generator
    from .sources.base import Frame

BY_CLASS = "balls-tiny/bounce"  # a name that does
_AT = re.compile(r"(?P<at>\d+(?:\.\d*)?|\.\d+)")


class Look(NamedTuple):
    """What a generator's video is.

    Attributes:
      name: of the model.
      classes: what can be asked for.
      fps: frames per second.
      condition: class or None -> [1, K, D]; raises ValueError for a class that there is not.
      draw: latents [F, ...] of a block, pixels a side -> uint8 [F, H, W, 3].
    """

    name: str
    classes: tuple[str, ...]
    fps: float
    condition: Callable[[str | None], np.ndarray]
    draw: Callable[[np.ndarray, int], np.ndarray]


def look_of(model: str) -> Look:
    """What a model's video is, by its card alone.

    Raises:
      ValueError: it makes no video by a class; and as ``card_of``.
    """
    from ..zoo.generate.balls import picture
    from ..zoo.generate.balls.names import CONFIG
    from ..zoo.resolve import card_of

    card = card_of(model)
    if card.task != "generate" or tuple(card.classes) != picture.CLASSES:
        raise ValueError(f"{model} makes no video by a class; {BY_CLASS} does")
    return Look(
        model,
        picture.CLASSES,
        float(card.frame_rate or picture.FRAME_RATE),
        lambda name: picture.condition(name, CONFIG.text_dim),
        lambda latents, size: picture.draw(latents.reshape(len(latents), -1), size),
    )


def loaded(look: Look, strength: float = 1.0) -> Generator:
    """The generator of a look's model, with its weights.

    strength: of video to video, as of ``balls.names.stream``.

    Raises:
      ValueError: there is no such strength, or the weights are not of such a network.
    """
    from ..zoo.generate.balls.names import stream
    from ..zoo.generate.generator import Generator
    from ..zoo.generate.wan.model import Wan
    from ..zoo.resolve import load

    rollout = stream(strength=strength)
    module, variables = load(look.name)
    if not isinstance(module, Wan):
        raise ValueError(f"{look.name} makes no video by a class; {BY_CLASS} does")
    return Generator(module, variables, rollout)


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


def at_rate(frames: Iterable[Frame], fps: float) -> Iterator[np.ndarray]:
    """The picture of every 1 / ``fps`` seconds: the newest that is there by then, so a faster
    source is thinned out and a slower one held."""
    shown, due, first = None, 0, 0.0
    for frame in frames:
        first = frame.time if shown is None else first
        while shown is not None and frame.time - first > due / fps + 1e-6:
            yield shown
            due += 1
        shown = frame.image
    if shown is not None:
        yield shown


def in_blocks(latents: Iterable[np.ndarray], block: int) -> Iterator[np.ndarray]:
    """Whole blocks [F, ...] of latents; what is left over at the end is not a block."""
    waiting: list[np.ndarray] = []
    for latent in latents:
        waiting.append(latent)
        if len(waiting) == block:
            yield np.stack(waiting)
            waiting.clear()


def blocks(
    generator: Any,
    conditions: Callable[[int], tuple[np.ndarray, bool]],
    count: int,
    seed: int,
    source: Iterator[np.ndarray] | None = None,
) -> Iterator[tuple[int, np.ndarray, float]]:
    """(block, its latents [F, ...], seconds it took) of one stream, without end if ``count`` < 0.

    conditions: block -> (condition [1, K, D], it is a new one).
    source: blocks of latents that are made anew; the stream ends with it. Waiting for it is not
        counted.
    """
    state, block, given = generator.start(1, seed=seed), 0, {}
    shape = (1, generator.rollout.block, *generator.engine.shapes.frame_shape)
    while block != count:
        if source is not None:
            piece = next(source, None)
            if piece is None:
                return
            given = {"source": piece.reshape(shape)}
        began = time.perf_counter()
        condition, new = conditions(block)
        if new and block:
            state = generator.switch(state, condition)
        state, made = generator.step(state, condition, **given)
        latents, valid = np.asarray(made.latents)[0], bool(made.valid[0])
        if valid:  # before the latency has passed nothing is shown
            yield block, latents, time.perf_counter() - began
        block += 1

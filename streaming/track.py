"""Tracking objects in a live stream: prompts by name, masks out, frame by frame."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Hashable, Iterable
from typing import Any

import jax
import numpy as np

from ..layers.streaming import Json
from ..zoo.picture import picture
from ..zoo.resolve import resolve
from ..zoo.segment.objects import Objects
from ..zoo.segment.outputs import resize_logits
from .portable import Portable, in_turn
from .session import SessionClosed
from .sources.base import Frame, picture_of
from .step import Step
from .views.track import TrackView


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What to track, in pixels of the source's frames.

    Attributes:
      name: of the object; a new name starts a new object, a known one corrects it.
      points: (x, y) each. labels: 1 on the object, 0 beside it; () for all on it.
      box: (x0, y0, x1, y1), or None.
      mask: bool [h, w], in place of points and box.
      at: seconds into the stream from which it counts; 0 is the first frame.

    Raises:
      ValueError: nothing was given, a time before the start, a mask with points or a box, or labels
        that do not fit.
    """

    name: Hashable
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Any = dataclasses.field(default=None, compare=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        if not self.points and self.box is None and self.mask is None:
            raise ValueError(f"object {self.name}: give a point, a box or a mask")
        if self.mask is not None and (self.points or self.box is not None):
            raise ValueError(f"object {self.name}: give a mask, or points and a box, not both")
        if self.labels and len(self.labels) != len(self.points):
            raise ValueError(
                f"object {self.name}: {len(self.labels)} labels for {len(self.points)} points"
            )
        if not 0 <= self.at < math.inf:
            raise ValueError(
                f"object {self.name}: second {self.at:g} is not in the stream; 0 is its first frame"
            )
        if strange := set(self.labels) - {0, 1}:
            raise ValueError(
                f"object {self.name}: label {strange.pop()} is not 1 (on it) or 0 (beside it)"
            )

    def check(self, size: tuple[int, int]) -> None:
        """Raises ValueError: a point is outside an image of ``size`` (height, width), or the box is
        empty."""
        h, w = size
        corners = () if self.box is None else (self.box[:2], self.box[2:])
        for x, y in (*corners, *self.points):
            if not (0 <= x <= w and 0 <= y <= h):
                raise ValueError(
                    f"object {self.name}: ({x:g}, {y:g}) is outside the image, which is "
                    f"{w} wide and {h} high"
                )
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"object {self.name}: box {self.box} is empty: x0, y0, x1, y1")


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The objects in one frame.

    Attributes:
      index, time, milliseconds: as in :class:`~streamzoo.streaming.session.Result`.
      masks: name -> bool [h, w] in the source's size.
      scores: name -> probability that the object is in the frame.
      absent: prompted in this frame, and the model sees nothing there.
    """

    index: int
    time: float
    milliseconds: float
    masks: dict[Hashable, np.ndarray]
    scores: dict[Hashable, float]
    absent: tuple[Hashable, ...] = ()

    def rows(self) -> list[Json]:
        """A table of the objects, see :meth:`.views.base.View.rows`."""
        return TrackView().rows(self)

    def draw(self, frame: Frame | np.ndarray) -> np.ndarray:
        """The frame, uint8 [h, w, 3] of the masks' size or a source's ``Frame``, with the masks and
        their names.

        Raises ImportError, with the remedy, without Pillow.
        """
        view = TrackView()
        return view.draw(picture_of(frame), self, view.fields(self))


class TrackSession(Portable):
    """One live stream of a tracker.

        with TrackSession.of("weights.safetensors", source_size=(480, 640)) as session:
            session.add(Prompt("dog", points=((320, 200),)))
            for frame in frames:                       # uint8, the model's input size
                masks = session.push(frame).masks      # {"dog": bool [480, 640]}

    Compiles on creation; objects come and go without compiling again. Threads that share a session
    take turns. A pickled or deep-copied session is a second one that goes on from this frame.
    """

    REMADE = ("_resize",)

    def __init__(
        self,
        step: Step,
        source_size: tuple[int, int] | None = None,
        prompts: Iterable[Prompt] = (),
    ):
        """source_size: (height, width) in which prompts are given and masks come back; None: the
        model's input size. prompts: to be applied when their time comes.

        Raises ValueError for a model that tracks nothing, and as :meth:`add`.
        """
        if step.card.task != "track":
            raise ValueError(
                f"{step.card.name} is no tracker; `streamzoo list '*video*'` and edgetam are"
            )
        super().__init__()
        config: Any = step.model.config
        self._step = step
        self.card = step.card
        self.frame_shape: tuple[int, int] = tuple(config.image_size)
        self.source_size = source_size or self.frame_shape
        self.objects = Objects(config)
        self.frames = 0
        self._carry = step.init_carry(1, self.frame_shape)
        self._later: list[Prompt] = []
        prompts = sorted(prompts, key=lambda p: p.at)
        if (count := len({p.name for p in prompts})) > len(self.objects.ids):
            raise ValueError(
                f"{count} objects are prompted and this tracker follows {len(self.objects.ids)}; "
                "leave some away, or load it with objects=..."
            )
        for prompt in prompts:
            self._check(prompt)
            (self._later.append if prompt.at > 0 else self.add)(prompt)
        self._prepare()

    def _prepare(self) -> None:
        size = self.source_size
        self._resize = jax.jit(functools.partial(resize_logits, size=size))
        if self._carry is not None:
            blank = np.zeros((1, 1, *self.frame_shape, 3), np.uint8)
            prompts = Objects(self._step.model.config).take(masks=True)
            self._step.warm(self._carry, blank, prompts=prompts)

    @classmethod
    def of(cls, name: str, source_size: tuple[int, int] | None = None, **overrides: Any):
        """A session of a model by name, weights file, published folder or hub address (see
        ``streamzoo.load``)."""
        return cls(Step(*resolve(name, **overrides)), source_size)

    @property
    def carry_bytes(self) -> int:
        """Size of what the stream remembers; the same at every frame."""
        return sum(a.nbytes for a in jax.tree.leaves(self._carry))

    @property
    def unreached(self) -> tuple[Prompt, ...]:
        """Prompts whose time has not come yet, by time."""
        return tuple(self._later)

    def _check(self, prompt: Prompt) -> None:
        h, w = self.source_size
        prompt.check(self.source_size)
        corners = () if prompt.box is None else (prompt.box[:2], prompt.box[2:])
        count, most = len(corners) + len(prompt.points), self.objects.config.points
        if count > most:
            raise ValueError(
                f"object {prompt.name}: {count} points, this tracker takes {most} (a box counts as "
                "two); load it with points=..."
            )
        if prompt.mask is not None and np.shape(prompt.mask) != tuple(self.source_size):
            raise ValueError(
                f"object {prompt.name}: mask {np.shape(prompt.mask)}, the image is {(h, w)}"
            )

    @in_turn
    def add(self, prompt: Prompt) -> None:
        """Prompts the next frame; ``prompt.at`` does not matter.

        Raises:
          ValueError: outside the image, too many points, a mask of another size, or no slot left.
        """
        self._check(prompt)
        h, w = (a / b for a, b in zip(self.frame_shape, self.source_size, strict=False))
        if prompt.mask is not None:
            mask = jax.image.resize(np.asarray(prompt.mask, np.float32), self.frame_shape, "linear")
            self.objects.mask(prompt.name, np.asarray(mask) > 0.5)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            self.objects.box(prompt.name, x0 * w, y0 * h, x1 * w, y1 * h)
        for (x, y), label in zip(
            prompt.points, prompt.labels or (1,) * len(prompt.points), strict=False
        ):
            self.objects.click(prompt.name, x * w, y * h, label)

    @in_turn
    def remove(self, name: Hashable) -> None:
        """Forgets an object from the next frame on. Raises ValueError: there is none of this
        name."""
        self.objects.remove(name)

    @in_turn
    def push(self, frame: np.ndarray, time_s: float | None = None) -> Tracked:
        """Takes uint8 RGB [h, w, 3] of the model's input size and finds the objects.

        Raises:
          ValueError: wrong shape or type. SessionClosed: after :meth:`close`.
        """
        if self._carry is None:
            raise SessionClosed("this session is closed; open a new one")
        frame = np.asarray(frame)
        if self.card.filter and self.card.fit == "stretch" and frame.shape[:2] == self.source_size:
            frame = picture(frame, self.card)
        if frame.shape != (*self.frame_shape, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame is {frame.dtype} {frame.shape} and should be uint8 "
                f"{(*self.frame_shape, 3)}: the size cannot change in a stream; resize it at the "
                "source (open_source(..., size=(h, w)) does)"
            )
        now = time.monotonic() - self._began if time_s is None else time_s
        while self._later and self._later[0].at <= now:
            self.add(self._later.pop(0))
        prompts = self.objects.take(masks=True)
        start = time.perf_counter()
        self._carry, out = self._step(self._carry, frame[None, None], prompts=prompts)
        masks = np.asarray(self._resize(out.masks[0, 0])) > 0
        scores = 0.5 * (1 + np.tanh(0.5 * np.asarray(out.scores[0, 0], np.float32)))
        took = 1e3 * (time.perf_counter() - start)
        said = (prompts.pointed | prompts.masked)[0, 0]
        slots = {name: i for i, name in enumerate(self.objects.ids) if name is not None}
        absent = tuple(n for n, i in slots.items() if said[i] and not masks[i].any())
        self.frames += 1
        return Tracked(
            self.frames - 1,
            now,
            took,
            {name: masks[i] for name, i in slots.items()},
            {name: float(scores[i]) for name, i in slots.items()},
            absent,
        )

    @in_turn
    def close(self) -> None:
        """Frees the carry. Idempotent."""
        self._carry = None

    def __enter__(self) -> TrackSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_prompts(points: Iterable[str], boxes: Iterable[str]) -> list[Prompt]:
    """Prompts as typed: ``[NAME=]X,Y[,0][@SECONDS]`` and ``[NAME=]X0,Y0,X1,Y1[@SECONDS]``.

    Those of one name and time are one prompt. Raises ValueError for a text that is neither.
    """
    found: dict[tuple[str, float], Json] = {}
    for kind, texts, counts in (("point", points, (2, 3)), ("box", boxes, (4,))):
        for text in texts:
            name, _, rest = text.rpartition("=")
            numbers, _, at = rest.partition("@")
            try:
                values = tuple(float(v) for v in numbers.split(","))
                key = name or "1", float(at or 0)
            except ValueError:
                values, key = (), ("", 0.0)
            form = "[NAME=]X,Y[,0][@SECONDS]" if kind == "point" else "[NAME=]X0,Y0,X1,Y1[@SECONDS]"
            if len(values) not in counts:
                raise ValueError(f"--{kind} {text}: write it as {form}")
            if not 0 <= key[1] < math.inf:
                raise ValueError(
                    f"--{kind} {text}: write it as {form}; second {key[1]:g} is not in the video, "
                    "0 is its first frame"
                )
            one = found.setdefault(key, {"points": (), "labels": (), "box": None})
            if kind == "box":
                one["box"] = values
            else:
                one["points"] += (values[:2],)
                one["labels"] += (int(values[2]) if len(values) == 3 else 1,)
    return [Prompt(name, at=at, **what) for (name, at), what in found.items()]

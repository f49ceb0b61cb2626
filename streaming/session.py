"""One live stream: push a frame, get the answer, close."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from ..layers.streaming import Json, keeps_state, takes_elapsed
from ..zoo.preprocess import frame_shape
from ..zoo.registry import Card
from ..zoo.resolve import resolve
from ..zoo.streams import as_stream
from .choice import chosen_step
from .elapsed import Elapsed
from .framing import Framed, Framing
from .portable import Portable, in_turn
from .slim import slim
from .sources.base import Frame, picture_of
from .step import Step
from .views import view_class

Output = TypeVar("Output")


@dataclasses.dataclass(frozen=True)
class Result(Generic[Output]):
    """The answer for one frame.

    Attributes:
      index: number of the frame in the stream, from 0.
      time: seconds, as given to :meth:`Session.push`.
      milliseconds: wall-clock time of the step, answer on the host.
      output: the model's output for this frame (``ActionOutput``, ``Detections``, ...), numpy
        leaves without batch and time axes.
      classes: names of the classes, from the card.
      multi_label: the card's flag: classes are independent (sigmoid), or one choice (softmax).
      task: the card's: whose view reads, writes and draws this.
    """

    index: int
    time: float
    milliseconds: float
    output: Output
    classes: tuple[str, ...] = ()
    multi_label: bool = True
    task: str = ""

    @classmethod
    def of(
        cls, card: Card, index: int, time: float, milliseconds: float, output: Output
    ) -> Result[Output]:
        """The answer of the model with this card."""
        classes, several = card.classes, card.multi_label
        return cls(index, time, milliseconds, output, classes, several, card.task)

    def scores(self) -> np.ndarray | None:
        """Probabilities of the frame's classes, float32 [C]; None without a frame head."""
        return view_class(self.task)().scores(self)

    def objects(self) -> list[Json]:
        """Objects of a detector or of tracks: ``label``, ``score`` and ``box`` x1, y1, x2, y2 in
        [0, 1]; of tracks also ``id``, and ``seen``: False where the box is a prediction."""
        return view_class(self.task)().objects(self)

    def persons(self) -> list[Json]:
        """Persons of this frame: ``box`` x1, y1, x2, y2 in [0, 1], ``score``, of tracks ``id``, of
        poses ``keypoints``, and ``scores``, float32 [C], where the model has a head for them."""
        return view_class(self.task)().persons(self)

    def rows(self) -> list[Json]:
        """A table of what was found, see :meth:`.views.base.View.rows`."""
        return view_class(self.task)().rows(self)

    def draw(self, frame: Frame | np.ndarray) -> np.ndarray:
        """The frame, uint8 [h, w, 3] of any size, or a source's ``Frame``, with what was found.

        Raises ImportError, with the remedy, without Pillow.
        """
        view = view_class(self.task)()
        return view.draw(picture_of(frame), self, view.fields(self))


def frame_size(card: Card) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """For ``open_source(size=...)``: the (height, width) a model wants of a source, decided by its
    first picture, so that a camera that changes its resolution does not change the frames'."""
    first: list[tuple[int, int]] = []

    def size(original: tuple[int, int]) -> tuple[int, int]:
        if not first:
            first.append(frame_shape(card, original))
        return first[0]

    return size


class SessionClosed(RuntimeError):
    """A frame was pushed into a session that is closed."""


class Session(Portable):
    """One live stream of one model.

        with Session.of("dsta-lite0/ucf11") as session:
            for frame in frames:                       # uint8 [h, w, 3], RGB
                result = session.push(frame)

    With ``fps``, the source's rate, models that follow things move on by as many frames as were
    skipped since the last push (``time_s`` says it). Compiles on creation, so the first frame is as
    fast as the others. Threads that share a session take turns. A pickled or deep-copied session is
    a second one that goes on from this frame.
    """

    def __init__(
        self,
        step: Step,
        frame_shape: tuple[int, int] | None = None,
        *,
        fps: float | None = None,
    ):
        if step.card.task == "track":
            raise ValueError(
                f"{step.card.name} tracks what it is shown: TrackSession takes its prompts"
            )
        if not keeps_state(step.model):
            raise ValueError(
                f"{step.card.name} is offline and keeps no state from frame to frame;"
                " zoo.as_stream(model, card) makes a stream of it where there is one"
            )
        super().__init__()
        self._step = step
        self.card: Card = step.card
        self._framing = Framing(step.card, frame_shape)
        self.frame_shape = self._framing.size
        self._closed = False
        self._elapsed = Elapsed(fps) if fps is not None and takes_elapsed(step.model) else None
        self._prepare()
        self._carry = step.init_carry(1, self.frame_shape)
        self.frames = 0

    def _prepare(self) -> None:
        if not self._closed:
            self._step.compile(1, 1, self.frame_shape, **self._extras(None))

    def _extras(self, time_s: float | None) -> dict[str, np.ndarray]:
        if self._elapsed is None:
            return {}
        return {"elapsed": np.full((1, 1), self._elapsed(time_s), np.int32)}

    @classmethod
    def of(
        cls,
        name: str,
        frame_shape: tuple[int, int] | None = None,
        *,
        runtime: str | None = None,
        precision: str | None = None,
        **overrides: Any,
    ):
        """A session of a model by name, weights file, published folder or hub address (see
        ``streamzoo.load``). A published model that is offline gets its form for a stream
        (``zoo.as_stream``). ``runtime`` and ``precision`` as of :class:`~.step.Step`, or precision
        "auto": :func:`~.choice.choose` among those of the runtime, of None any.

        Raises:
          ValueError: as ``load``; and a model that has no such form, or tracks prompted objects.
        """
        model, params, card = resolve(name, **overrides)
        model = as_stream(model, card)
        step = chosen_step(model, params, card, runtime=runtime, precision=precision)
        return cls(step, frame_shape)

    @property
    def carry_bytes(self) -> int:
        """Size of what the stream remembers; the same at every frame."""
        return sum(a.nbytes for a in jax.tree.leaves(self._carry))

    def _frame(self, frame: np.ndarray) -> tuple[np.ndarray, Framed]:
        if self._closed:
            raise SessionClosed("this session is closed; open a new one")
        framed = self._framing(frame)
        batch = np.empty((1, 1, *self.frame_shape, 3), np.uint8)
        self._framing.put(batch[0, 0], framed.image)
        return batch, framed

    @in_turn
    def push(self, frame: np.ndarray, time_s: float | None = None) -> Result[Any]:
        """Takes uint8 RGB [h, w, 3] and answers. Where the card has a rule of its own for pictures
        (cropped, letterboxed, a published checkpoint's filter) a frame has any size, and boxes are
        fractions of what was pushed (:class:`.framing.Framing`).

        Raises:
          ValueError: wrong shape or type. SessionClosed: after :meth:`close`.
        """
        frame, framed = self._frame(frame)
        start = time.perf_counter()
        self._carry, out = self._step(self._carry, frame, **self._extras(time_s))
        return self._result(out, start, time_s, framed, advance=1)

    @in_turn
    def peek(self, frame: np.ndarray) -> Result[Any]:
        """What the answer to this frame would be; the stream does not advance."""
        frame, framed = self._frame(frame)
        start = time.perf_counter()
        return self._result(
            self._step.peek(self._carry, frame, **self._extras(None)),
            start,
            None,
            framed,
            advance=0,
        )

    def _result(self, out, start, time_s, framed: Framed, advance) -> Result[Any]:
        out = framed.told(jax.tree.map(lambda a: a[0, 0], jax.device_get(slim(out))))
        now = time.perf_counter()
        if time_s is None:
            time_s = time.monotonic() - self._began
        result = Result.of(self.card, self.frames, time_s, 1e3 * (now - start), out)
        self.frames += advance
        return result

    @in_turn
    def state(self) -> dict[str, np.ndarray]:
        """A copy of what the stream remembers, {path: array}, batch 1, on the host."""
        if self._closed:
            raise SessionClosed("this session is closed; open a new one")
        leaves = jax.tree_util.tree_flatten_with_path(self._carry)[0]
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}

    @in_turn
    def reset(self) -> None:
        """Starts the stream anew, without compiling."""
        self._carry = self._step.init_carry(1, self.frame_shape)
        self.frames = 0
        if self._elapsed is not None:
            self._elapsed.reset()

    @in_turn
    def close(self) -> None:
        """Frees the carry. Idempotent."""
        self._closed = True
        self._carry = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

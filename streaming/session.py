"""One live stream: push a frame, get the answer, close."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..zoo.action.outputs import ActionOutput
from ..zoo.registry import Card, model_card
from ..zoo.weights import WeightsError, find_weights, load, read_metadata
from .step import Step


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer for one frame.

    Attributes:
      index: number of the frame in the stream, from 0.
      time: seconds, as given to :meth:`Session.push`.
      milliseconds: wall-clock time of the step, answer on the host.
      output: the model's output for this frame, numpy leaves without batch and time axes.
      classes: names of the classes, from the card.
      multi_label: the card's flag: classes are independent (sigmoid), or one choice (softmax).
    """

    index: int
    time: float
    milliseconds: float
    output: ActionOutput
    classes: tuple[str, ...]
    multi_label: bool = True

    def scores(self) -> np.ndarray | None:
        """Probabilities of the frame's classes, float32 [C]; None without a frame head."""
        if self.output.logits is None:
            return None
        return probabilities(self.output.logits, self.multi_label)

    def persons(self) -> list[dict[str, Any]]:
        """Persons of this frame: ``box`` x1, y1, x2, y2 in [0, 1], ``score``, and ``scores``,
        float32 [C], where the model has a head for them."""
        out = self.output
        if out.boxes is None or out.box_valid is None or out.box_scores is None:
            return []
        found = []
        for k in np.flatnonzero(out.box_valid):
            person = {"box": out.boxes[k].tolist(), "score": float(out.box_scores[k])}
            if out.box_logits is not None:
                person["scores"] = probabilities(out.box_logits[k], self.multi_label)
            found.append(person)
        return found


def probabilities(logits: Any, multi_label: bool) -> np.ndarray:
    """Logits [..., C] -> float32 in [0, 1]: sigmoid of each, or softmax over the last axis."""
    logits = np.asarray(logits, np.float32)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def card_of(name_or_path: str | Path, model: Any = None) -> Card:
    """The card of a name, or of the model that a weights file's header names.

    The card's ``input_size`` is the ``image_size`` of the file's header, and of the built
    ``model`` where one is given, which an override may have changed.

    Raises:
      UnknownModelError: and WeightsError for a file that is not readable or names no model.
    """
    path = Path(name_or_path).expanduser()
    suffixes = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}  # the last four: to be refused
    if path.is_file() or path.suffix in suffixes or str(name_or_path).startswith("hf:"):
        path = find_weights(name_or_path)
        header = read_metadata(path)
        name, config = header.get("model"), json.loads(header.get("config", "{}"))
        if name is None:
            raise WeightsError(
                f"{path}: its header names no model, so it is not one of our weights files; "
                "another project's checkpoint is read by `streamzoo convert`"
            )
    else:
        name, config = str(name_or_path), {}
    card = model_card(name)
    size = config.get("image_size", card.input_size)
    size = getattr(getattr(model, "config", None), "image_size", size)
    return dataclasses.replace(card, input_size=tuple(size))


class SessionClosed(RuntimeError):
    """A frame was pushed into a session that is closed."""


class Session:
    """One live stream of one model.

        with Session.of("dsta-lite0/ucf11") as session:
            for frame in frames:                       # uint8 [h, w, 3], RGB
                result = session.push(frame)

    Compiles on creation, so the first frame is as fast as the others.
    """

    def __init__(self, step: Step, frame_shape: tuple[int, int] | None = None):
        self._step = step
        self.card: Card = step.card
        self.frame_shape = frame_shape or step.card.input_size
        step.compile(1, 1, self.frame_shape)
        self._carry = step.init_carry(1, self.frame_shape)
        self.frames = 0
        self._began = time.monotonic()
        self._closed = False

    @classmethod
    def of(cls, name: str, frame_shape: tuple[int, int] | None = None, **overrides: Any):
        """A session of a model by name or weights file (see ``streamzoo.load``)."""
        model, params = load(name, **overrides)
        return cls(Step(model, params, card_of(name, model)), frame_shape)

    @property
    def carry_bytes(self) -> int:
        """Size of what the stream remembers; the same at every frame."""
        return sum(a.nbytes for a in jax.tree.leaves(self._carry))

    def _frame(self, frame: Any) -> np.ndarray:
        if self._closed:
            raise SessionClosed("this session is closed; open a new one")
        frame = np.asarray(frame)
        height, width = self.frame_shape
        if frame.shape != (height, width, 3):
            raise ValueError(
                f"frame {frame.shape} should be {(height, width, 3)}: resize it at the source "
                "(open_source(..., size=(h, w)) does)"
            )
        if frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} and should be uint8 RGB, values 0-255")
        return frame[None, None]

    def push(self, frame: Any, time_s: float | None = None) -> Result:
        """Takes uint8 RGB [h, w, 3] and answers.

        Raises:
          ValueError: wrong shape or type. SessionClosed: after :meth:`close`.
        """
        frame = self._frame(frame)
        start = time.perf_counter()
        self._carry, out = self._step(self._carry, frame)
        return self._result(out, start, time_s, advance=1)

    def peek(self, frame: Any) -> Result:
        """What the answer to this frame would be; the stream does not advance."""
        frame = self._frame(frame)
        start = time.perf_counter()
        return self._result(self._step.peek(self._carry, frame), start, None, advance=0)

    def _result(self, out, start, time_s, advance) -> Result:
        out = jax.tree.map(lambda a: a[0, 0], jax.device_get(out.replace(taps=None, person=None)))
        now = time.perf_counter()
        if time_s is None:
            time_s = time.monotonic() - self._began
        result = Result(
            self.frames,
            time_s,
            1e3 * (now - start),
            out,
            self.card.classes,
            self.card.multi_label,
        )
        self.frames += advance
        return result

    def reset(self) -> None:
        """Starts the stream anew, without compiling."""
        self._carry = self._step.init_carry(1, self.frame_shape)
        self.frames = 0

    def close(self) -> None:
        """Frees the carry. Idempotent."""
        self._closed = True
        self._carry = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

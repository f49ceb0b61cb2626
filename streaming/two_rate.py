"""Two rates: a fast model answers every frame here, a slow one is asked elsewhere now and then.

The fast one is a :class:`~.session.Session` on the device. What the slow one is asked is a
:class:`Question`: a frame, and the state of the stream before it, from which a slow model with the
same state (exact where the fast one's weights are narrow, say) goes on. Nothing here waits for it:
a frame is answered by the fast model at once, and a slow answer stands beside later frames until it
is too old or a newer one comes.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from .session import Result, Session
from .slim import slim

Slow = TypeVar("Slow")


@dataclasses.dataclass(frozen=True)
class Question:
    """What the slow model is asked.

    Attributes:
      index: number of the frame.
      time: its seconds.
      frame: uint8 RGB [h, w, 3].
      state: {path: array} of the stream before this frame, batch 1: of the fast model.
    """

    index: int
    time: float
    frame: np.ndarray
    state: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Both(Generic[Slow]):
    """What is known at a frame.

    Attributes:
      fast: of this frame.
      slow: the newest answer of the slow model, None if there is none that is young enough.
      about: the frame that ``slow`` is of.
      asked: this frame was put to the slow model.
    """

    fast: Result[Any]
    slow: Slow | None
    about: int | None
    asked: bool


class TwoRate(Generic[Slow]):
    """A session whose frames a slow model is asked about, one at a time.

        def ask(question):                      # in a thread of its own; may take long, or fail
            return requests.post(...)

        with TwoRate(session, ask, when=lambda result: bool(result.persons())) as both:
            for frame in frames:
                said = both.push(frame)

    Args:
      session: the fast model's; this object closes it.
      ask: the slow model's answer to a :class:`Question`. While it is out, later questions are not
        put. What it raises counts in ``failures``, and the fast model goes on alone.
      when: of a frame's fast result, whether the slow model is asked about the next frame: the
        state before that is still here, and is copied for a question alone.
      patience: frames that an answer may be late, and stands.
      pause: frames without questions after a failure.
    """

    def __init__(
        self,
        session: Session,
        ask: Callable[[Question], Slow],
        *,
        when: Callable[[Result[Any]], bool],
        patience: int = 30,
        pause: int = 15,
    ):
        for name, frames in (("patience", patience), ("pause", pause)):
            if frames < 0:
                raise ValueError(f"{name}={frames}: give a number of frames from 0 on")
        self.session, self._ask, self._when = session, ask, when
        self._patience, self._pause = patience, pause
        self._changed = threading.Condition()
        self._question: Question | None = None  # until its answer is here
        self._answer: tuple[int, Slow] | None = None
        self._closed = self._wanted = False
        self._quiet = -1  # no question before this frame
        self.asked = self.answered = self.failures = self.late = 0
        self._thread = threading.Thread(target=self._run, name="slow model", daemon=True)
        self._thread.start()

    def push(self, frame: Any, time_s: float | None = None) -> Both[Slow]:
        """Takes a frame as :meth:`Session.push` does, and never waits for the slow model."""
        with self._changed:
            free = self._question is None and self.session.frames >= self._quiet
        # before the step, which gives the old state's buffers away
        state = self.session.state() if free and self._wanted else None
        fast = self.session.push(frame, time_s)
        self._wanted = bool(self._when(fast))
        with self._changed:
            if state is not None:
                picture = np.array(frame)  # the caller may write into its own
                self._question = Question(fast.index, fast.time, picture, state)
                self.asked += 1
                self._changed.notify_all()
            about, slow = self._answer or (None, None)
            if about is not None and fast.index - about > self._patience:
                self._answer = about = slow = None
        return Both(fast, slow, about, state is not None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._question is not None)
                if self._closed or self._question is None:
                    return
                question = self._question
            try:
                answer: Any = self._ask(question)
                failed = False
            except Exception:  # a network that fails must not stop the stream
                answer, failed = None, True
            with self._changed:
                self._question = None
                now = self.session.frames
                if failed:
                    self.failures += 1
                    self._quiet = now + self._pause
                elif now - 1 - question.index > self._patience:
                    self.late += 1
                else:
                    self.answered += 1
                    self._answer = question.index, answer
                self._changed.notify_all()

    def close(self) -> None:
        """Closes the session. A question that is out is forgotten. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.session.close()

    def __enter__(self) -> TwoRate[Slow]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_of(step: Any) -> Callable[[Question], Any]:
    """The slow side: what a :class:`~.step.Step` makes of a frame, going on from the fast one's
    state; its output without batch and time.

    Raises, when it is asked: ValueError, if the state is not one of its own.
    """
    template = jax.eval_shape(lambda: step.model.init_carry(1, step.card.input_size))
    leaves, tree = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    shapes = {n: (a.shape, a.dtype) for n, (_, a) in zip(names, leaves, strict=True)}

    def ask(question: Question) -> tuple[Any, dict[str, np.ndarray]]:
        if shapes != {n: (a.shape, a.dtype) for n, a in question.state.items()}:
            raise ValueError(
                f"the state of this stream is not one of {step.card.name}: the fast and the slow"
                " model must be one architecture and frame size"
            )
        carry = jax.tree.unflatten(tree, [jax.device_put(question.state[n]) for n in names])
        out = step.peek(carry, question.frame[None, None])
        return jax.tree.map(lambda a: np.asarray(a)[0, 0], slim(out))

    return ask

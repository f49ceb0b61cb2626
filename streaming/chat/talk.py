"""The loop: perception of every frame, a round of words now and then, and what is said of it."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..sources.base import FrameSource
from ..watch import Board, Meter, interrupted, rows_of, size_text
from .conversation import Conversation, Said
from .narrator import Narrator, Round

Tell = Callable[[Round | None, Said], None]


@dataclasses.dataclass(frozen=True)
class Question:
    """Asked at ``at`` seconds of the stream; at its end where that is None or later."""

    text: str
    at: float | None = None


@dataclasses.dataclass
class Counts:
    """What happened: rounds told, remarks, answers, silences; rounds that were dropped because
    language was not done with the one before; and the times of first words."""

    rounds: int = 0
    remarks: int = 0
    answers: int = 0
    silent: int = 0
    dropped: int = 0
    first_ms: list[float] = dataclasses.field(default_factory=list)

    def add(self, said: Said) -> None:
        self.remarks += said.kind == "remark"
        self.answers += said.kind == "answer"
        self.silent += said.kind == "silent"
        if said.kind != "silent":
            self.first_ms = [*self.first_ms[-511:], said.first_ms]


class Language:
    """Who does the talking: in line for a recording, whose transcript is then the same every time;
    in a thread of its own for a live stream, where perception never waits for language."""

    def __init__(self, conversation: Conversation, tell: Tell, threaded: bool):
        self.conversation, self._tell = conversation, tell
        self.counts = Counts()
        self._jobs: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._failed: BaseException | None = None
        self._thread = None
        if threaded:
            self._thread = threading.Thread(target=self._work, name="language", daemon=True)
            self._thread.start()

    def hear(self, told: Round) -> None:
        """A round; while language is busy the newest waits, and older ones are dropped."""
        self.counts.rounds += 1
        if self._thread is None:
            return self._do(told)
        self._raise()
        try:
            self._jobs.put_nowait(told)
        except queue.Full:
            self.counts.dropped += 1

    def ask(self, question: str, at: float) -> None:
        """A question; it is never dropped."""
        if self._thread is None:
            return self._do((question, at))
        self._raise()
        self._jobs.put((question, at))

    def close(self) -> None:
        """Waits until all is said."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
            self._raise()

    def _do(self, job: Round | tuple[str, float]) -> None:
        if isinstance(job, Round):
            told, said = job, self.conversation.hear(job)
        else:
            told, said = None, self.conversation.ask(*job)
        self.counts.add(said)
        self._tell(told, said)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failed is None:
                try:
                    self._do(job)
                except BaseException as error:  # told in the loop's own thread
                    self._failed = error

    def _raise(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed


def talk(
    session: Any,
    source: FrameSource,
    conversation: Conversation,
    tell: Tell,
    *,
    questions: Sequence[Question] = (),
    every: float = 2.0,
    narrator: Narrator | None = None,
    seconds: float | None = None,
    board: Board | None = None,
    typed: Callable[[], list[str]] = lambda: [],
) -> dict[str, float]:
    """Runs a perception session over a source and talks about it.

    Args:
      session: of a model whose results have objects, persons or actions.
      source: opened with the session's frame shape.
      conversation: which hears the rounds.
      tell: gets each round with what was said of it, and each answer (with None).
      questions: asked at their times.
      every: seconds of the stream from one round to the next.
      narrator: makes the words.
      seconds: stop after so many.
      board: the live table.
      typed: questions that were typed since it was called last.

    Returns:
      frames, rounds, remarks, answers, silent, dropped, withheld, memory_bytes, held, cut, first_ms
      (median), model_ms, fps.
    """
    narrator, meter = narrator or Narrator(), Meter()
    waiting = sorted(questions, key=lambda q: np.inf if q.at is None else q.at)
    language = Language(conversation, tell, threaded=source.live)
    start, now, due, dropped = time.monotonic(), 0.0, every, source.dropped

    def rows() -> dict[str, str]:
        counts, first = language.counts, language.counts.first_ms
        spoken = {
            "memory": f"{conversation.held} tokens, {size_text(conversation.memory_bytes)}",
            "said": f"{counts.remarks} remarks, {counts.answers} answers, {counts.silent} silent",
            "first word": f"{np.median(first):.0f} ms" if first else "-",
        }
        return rows_of(meter, session, source, dropped) | spoken

    with interrupted() as stop:
        try:
            while not stop:
                if seconds is not None and source.live and time.monotonic() - start >= seconds:
                    break
                frame = source.read(timeout=0.5)
                if frame is None:
                    if source.over:
                        break
                elif seconds is not None and not source.live and frame.time >= seconds:
                    break
                else:
                    result, now = session.push(frame.image, frame.time), frame.time
                    meter.add(result.milliseconds, 1e3 * (time.monotonic() - frame.received))
                    narrator.push(result)
                if now >= due:
                    language.hear(narrator.round(now))
                    due = now + every - (now - due) % every
                while waiting and waiting[0].at is not None and waiting[0].at <= now:
                    language.ask(waiting.pop(0).text, now)
                for text in typed():
                    language.ask(text, now)
                if board is not None:
                    board.update(rows())
            if meter.frames:  # the end is a moment, too
                language.hear(narrator.round(now))
            for question in waiting:
                language.ask(question.text, now)
        finally:
            language.close()
            if board is not None:
                board.close(rows())
    counts = language.counts
    return dict(
        meter.figures(),
        frames=meter.frames,
        rounds=counts.rounds,
        remarks=counts.remarks,
        answers=counts.answers,
        silent=counts.silent,
        dropped=counts.dropped,
        withheld=conversation.withheld,
        memory_bytes=conversation.memory_bytes,
        held=conversation.held,
        cut=conversation.cut,
        first_ms=float(np.median(counts.first_ms)) if counts.first_ms else 0.0,
    )

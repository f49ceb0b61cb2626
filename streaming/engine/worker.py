"""The engine's two threads: one launches steps, one waits for answers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import jax

from ...layers.streaming import Carry
from ..session import Result
from ..step import Step
from .pool import Pool
from .scheduler import Batch, Scheduler, StreamState
from .stream import Answer, Stream


class EngineError(RuntimeError):
    """The engine is not running, or its own code has failed."""


class Worker:
    """What runs in the threads; :class:`Engine` is the rest.

    The dispatch thread is the only one that touches the pool. ``_news`` guards the scheduler and
    the orders; nobody waits while holding it.
    """

    step: Step
    frame_shape: tuple[int, int]
    scheduler: Scheduler
    _pool: Pool
    _loop: asyncio.AbstractEventLoop

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._news = threading.Condition()
        self._orders: list[Callable[[], None]] = []  # for the dispatch thread
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()  # for the collecting thread
        self._threads: list[threading.Thread] = []
        self._finishing: set[Stream] = set()
        self._futures: set[asyncio.Future[Any]] = set()
        self._last_end = float("-inf")
        self._stopping = False
        self.failure: BaseException | None = None

    def _start(self) -> None:
        for work in (self._dispatch, self._collect):
            name = f"streamzoo engine {work.__name__}"
            thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _remove(self, stream: Stream) -> None:
        raise NotImplementedError

    def _reap(self) -> None:
        for stream in [s for s in self._finishing if s.state.idle]:
            self._remove(stream)

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        # the loop may have ended without close(): then nobody listens
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # a defect of ours: nobody may wait for ever
            with self._news:
                self.failure, self._stopping = error, True
                for state in list(self.scheduler.streams.values()):
                    self._remove(state.tag)
                self._news.notify()
            self._call(self._forsake)
            self._done.put(None)

    def _forsake(self) -> None:
        for future in list(self._futures):
            if not future.done():
                future.set_exception(EngineError(f"the engine failed: {self.failure!r}"))

    def _dispatch(self) -> None:
        while True:
            with self._news:
                batch = None
                while not self._orders and not self._stopping:
                    batch = self.scheduler.next(self._clock())
                    self._reap()
                    if batch is not None or self._orders:
                        break
                    self._news.wait()
                orders, self._orders = self._orders, []
                stop = self._stopping and not orders
            for order in orders:
                order()
            if batch is not None:
                self._launch(batch)
            elif stop:
                self._done.put(None)
                return

    def _launch(self, batch: Batch) -> None:
        began, out, rows, error = [s.tag.lost for s, _ in batch.rows], None, [], None
        try:
            for state, item in batch.rows:
                stream: Stream = state.tag
                stream.launched, stream.lost = item.index + 1, False
                self._place(state)
            frames = [item.payload[0].image for _, item in batch.rows]
            gone = [state.tag.elapsed(item.payload[1]) for state, item in batch.rows]
            governor = self.scheduler.governor
            variant = 0 if governor is None else governor.gears[batch.gear].variant
            out, rows = self._pool.launch(
                [s for s, _ in batch.rows], frames, batch.bucket, gone, variant
            )
        except Exception as failure:
            error = failure
            self._recover()
        self._done.put((batch, out, rows, began, error))
        for state, _ in batch.rows:
            if state.tag.writers and state.credits:
                self._call(state.tag.credit)

    def _place(self, state: StreamState) -> None:
        if state not in self._pool:
            self._pool.admit(state, state.tag.carry)
            state.tag.carry = None

    def _carry(self, stream: Stream) -> Carry:
        if stream.state in self._pool:
            return self._pool.extract(stream.state)
        return self.step.init_carry(1, self.frame_shape) if stream.carry is None else stream.carry

    def _recover(self) -> None:
        """After a step that failed on the device: if it took the pool, all streams begin anew."""
        if not self._pool.alive():
            with self._news:
                for state in self.scheduler.streams.values():
                    state.tag.lost |= state in self._pool
            self._pool.rebuild()

    def _collect(self) -> None:
        while (job := self._done.get()) is not None:
            if callable(job):
                job()
                continue
            batch, out, rows, began, error = job
            if error is None:
                try:
                    out = jax.device_get(out)
                except Exception as failure:
                    error = failure
                    with self._news:
                        self._orders.append(self._recover)
            self._finish_batch(batch, out, rows, began, error)

    def _finish_batch(self, batch: Batch, out, rows, began, error: Exception | None) -> None:
        now = self._clock()
        seconds = now - max(batch.launched, self._last_end)
        self._last_end = now
        answers = {}
        for k, (state, item) in enumerate(batch.rows):
            result = None if error else self._result(out, rows[k], item, seconds)
            answers[state] = Answer(
                state.name, item.index, item.payload[1], now - item.arrived, item.event,
                result, str(error) or repr(error) if error else None, began[k],
                item.payload[0].image if state.tag.show else None,
            )  # fmt: skip
        with self._news:
            if error is None:
                kept = self.scheduler.done(batch, now, seconds if seconds > 0 else None)
            else:
                kept = self.scheduler.fail(batch, now)
            # Before the lock is let go: a stream may end only after its last answer.
            self._call(self._deliver, [(state.tag, answers[state]) for state, _ in kept])
            self._reap()
            self._news.notify()

    def _result(self, out, row: int, item, seconds: float) -> Result:
        output = item.payload[0].told(jax.tree.map(lambda a: a[row, 0], out))
        return Result.of(self.step.card, item.index, item.payload[1], 1e3 * seconds, output)

    @staticmethod
    def _deliver(answers: list[tuple[Stream, Answer]]) -> None:
        for stream, answer in answers:
            stream.deliver(answer)

"""Many live streams on one accelerator: an asyncio face, and one thread that launches steps.

The dispatch thread is the only one that touches the pool of carries. It launches up to ``depth``
steps ahead, so that frames are copied to the device while it computes. A second thread does
nothing but wait for answers. One lock guards the scheduler; nobody waits while holding it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax

from ..session import Result
from ..step import Step
from .admission import Refused
from .costs import Costs
from .pool import Pool
from .scheduler import BUDGET, Batch, Scheduler, StreamState
from .stream import Answer, Stream, StreamClosed


class EngineError(RuntimeError):
    """The engine is not running, or its own code has failed."""


def powers_of_two(slots: int) -> tuple[int, ...]:
    """1, 2, 4, ... and ``slots`` itself."""
    return tuple(sorted({1 << k for k in range(slots.bit_length())} & set(range(slots)) | {slots}))


class Engine:
    """Runs a model over streams that come and go.

        async with Engine(step, slots=8) as engine:
            stream = engine.add("cam", fps=15)
            await stream.push(frame)                      # or stream.offer(frame), any thread
            async for answer in stream: ...

    Args:
      step: the model.
      slots: streams held at once.
      buckets: batch sizes compiled ahead; default powers of two up to ``slots``. A model that
        looks across streams needs ``(slots,)``.
      frame_shape: (h, w), default the card's.
      depth: steps launched before the first of them is answered.
      max_load: share of the time that admitted streams may need.
      costs: seconds per bucket; default: measured on start.
      clock: seconds; only its differences matter.
    """

    def __init__(
        self,
        step: Step,
        *,
        slots: int = 8,
        buckets: Iterable[int] | None = None,
        frame_shape: tuple[int, int] | None = None,
        depth: int = 2,
        max_load: float = 0.9,
        costs: Costs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.step, self.slots = step, slots
        self.buckets = tuple(sorted(set(buckets or powers_of_two(slots))))
        height, width = frame_shape or step.card.input_size
        self.frame_shape = (height, width)
        if costs is not None and costs.buckets != self.buckets:
            raise ValueError(f"costs are of buckets {costs.buckets}, needed: {self.buckets}")
        self._max_load, self._depth = max_load, depth
        self._costs, self._clock = costs, clock
        self._news = threading.Condition()
        self._orders: list[Callable[[], None]] = []  # for the dispatch thread
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()  # for the collecting thread
        self._threads: list[threading.Thread] = []
        self._finishing: set[Stream] = set()
        self._futures: set[asyncio.Future[Any]] = set()
        self._last_end = float("-inf")
        self._stopping = self._draining = False
        self.failure: BaseException | None = None

    # Life.

    async def start(self) -> Engine:
        """Compiles and times every bucket, then takes streams."""
        if self._threads or self._stopping:
            raise EngineError("an engine starts once; make another one")
        self._loop, self._empty = asyncio.get_running_loop(), asyncio.Event()

        def prepare() -> tuple[Pool, Costs]:
            pool = Pool(self.step, self.slots, self.buckets, self.frame_shape)
            costs = pool.measure(8 if self._costs is None else 1)
            pool.warm()
            return pool, self._costs or costs

        self._pool, self._costs = await asyncio.to_thread(prepare)
        self.scheduler = Scheduler(
            self._costs, self.slots, max_load=self._max_load, depth=self._depth
        )
        for work in (self._dispatch, self._collect):
            name = f"streamzoo engine {work.__name__}"
            thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    async def drain(self, timeout: float | None = None) -> bool:
        """Takes nothing new, answers what waits; True if all of it within ``timeout`` seconds."""
        self._draining = True
        for stream in self.streams.values():
            stream.finish()
        if self.streams:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), timeout)
            except TimeoutError:
                return False
        return True

    async def close(self) -> None:
        """Lets all streams go and ends the threads; again without harm."""
        if self._threads:
            for stream in self.streams.values():
                stream.close()
        with self._news:
            self._stopping = True
            self._news.notify()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        if self.failure is not None:
            raise EngineError(f"the engine failed: {self.failure!r}") from self.failure

    async def __aenter__(self) -> Engine:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Streams.

    @property
    def streams(self) -> dict[Hashable, Stream]:
        """Streams that are not closed."""
        with self._news:
            return {name: state.tag for name, state in self.scheduler.streams.items()}

    def add(
        self,
        name: Hashable,
        fps: float,
        *,
        budget: float = BUDGET,
        policy: str = "latest",
        capacity: int | None = None,
        unread: int = 64,
        carry: Any = None,
        start: int = 0,
        check: bool = True,
    ) -> Stream:
        """Takes a stream.

        Args:
          fps, budget, policy, capacity, check: see :meth:`Scheduler.admit`.
          unread: answers kept for a slow reader. Beyond it "latest" overwrites the oldest; the
            other policies stop serving the stream, which takes away its sender's credits.
          carry: leaves [1, ...], where the stream goes on from; None begins anew.
          start: number of its next frame.

        Raises:
          Refused: it cannot be held, with the reason. SlotError: the carry is of another model.
          ValueError: the name is taken, or a number makes no sense.
        """
        if carry is not None:
            self._pool.check(carry)
        if unread < 1 or start < 0:
            raise ValueError(f"unread={unread}, start={start}: at least 1 and 0")
        with self._news:
            if self._stopping or self._draining:
                raise Refused(f"stream {name!r} refused: the engine is closing; try another one")
            state = self.scheduler.admit(
                name, fps, budget=budget, policy=policy, capacity=capacity, check=check
            )
            state.received = start
            state.room = None if policy == "latest" else unread
            state.tag = stream = Stream(self, state, unread, carry, start)
        return stream

    def offer(self, stream: Stream, frame: Any, time: float | None, event: bool) -> int | None:
        """See :meth:`Stream.offer`."""
        with self._news:
            if stream.state.closed or stream.state.finishing:
                raise StreamClosed(f"stream {stream.name!r} is closed; add it again")
            now = self._clock()
            payload = (frame, now if time is None else time)
            item = self.scheduler.offer(stream.name, payload, now, event=event)
            if item is not None:
                self._news.notify()
            return None if item is None else item.index

    def pause(self, stream: Stream) -> None:
        with self._news:
            if not stream.closed:
                self.scheduler.pause(stream.name)

    def resume(self, stream: Stream) -> None:
        with self._news:
            if not stream.closed:
                self.scheduler.resume(stream.name)
                self._news.notify()

    def taken(self, stream: Stream) -> None:
        """The reader took an answer."""
        if stream.state.room is not None:
            with self._news:
                self.scheduler.read(stream.state)
                self._news.notify()

    def remove(self, stream: Stream) -> None:
        """See :meth:`Stream.close`."""
        with self._news:
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        if stream.closed:
            return
        self.scheduler.remove(stream.name)
        self._finishing.discard(stream)
        self._orders.append(lambda: self._pool.release(stream.state))
        self._news.notify()
        self._call(self._gone, stream)

    def _gone(self, stream: Stream) -> None:
        stream.end()
        if not self.streams:
            self._empty.set()

    def finish(self, stream: Stream) -> None:
        """See :meth:`Stream.finish`."""
        with self._news:
            if not stream.closed:
                stream.state.finishing = True
                self._finishing.add(stream)
                self._reap()
        stream.credit()

    def _reap(self) -> None:
        for stream in [s for s in self._finishing if s.state.idle]:
            self._remove(stream)

    async def snapshot(self, stream: Stream) -> tuple[int, Any]:
        """See :meth:`Stream.snapshot`. Raises StreamClosed."""
        future: asyncio.Future[tuple[int, Any]] = self._loop.create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)

        def settle(value: Any, error: Exception | None) -> None:
            if not future.done():
                future.set_result(value) if error is None else future.set_exception(error)

        def order() -> None:
            carry, seen = self._carry(stream), stream.launched

            def fetch() -> None:
                try:
                    self._call(settle, (seen, jax.device_get(carry)), None)
                except Exception as error:  # a failed step took the state
                    self._call(settle, None, error)

            self._done.put(fetch)

        with self._news:
            if stream.closed or self._stopping:
                raise StreamClosed(f"stream {stream.name!r} is closed; it has no state")
            self._orders.append(order)
            self._news.notify()
        return await future

    def report(self) -> dict[str, Any]:
        """Load, and where every frame of every stream is; for JSON."""
        with self._news:
            streams = list(self.scheduler.streams.values())
            load = self.scheduler.load()
        return {
            "slots": self.slots,
            "load": load,
            "step_ms": {b: 1e3 * self.scheduler.costs.mean(b) for b in self.buckets},
            "total": self.scheduler.ledger.total().to_dict(),
            "streams": {str(s.name): s.account.snapshot().to_dict() for s in streams},
        }

    # The rest runs in the two threads.

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop has ended without close(): nobody listens
            pass

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
            frames = [item.payload[0] for _, item in batch.rows]
            out, rows = self._pool.launch([s for s, _ in batch.rows], frames, batch.bucket)
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

    def _carry(self, stream: Stream) -> Any:
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
        output = jax.tree.map(lambda a: a[row, 0], out)
        card = self.step.card
        return Result(
            item.index, item.payload[1], 1e3 * seconds, output, card.classes, card.multi_label
        )

    @staticmethod
    def _deliver(answers: list[tuple[Stream, Answer]]) -> None:
        for stream, answer in answers:
            stream.deliver(answer)

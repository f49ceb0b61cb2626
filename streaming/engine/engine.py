"""Many live streams on one accelerator: an asyncio face, and one thread that launches steps.

The dispatch thread is the only one that touches the pool of carries. It launches up to ``depth``
steps ahead, so that frames are copied to the device while it computes. A second thread does
nothing but wait for answers. One lock guards the scheduler; nobody waits while holding it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import jax

from ...layers.streaming import Carry, Json
from ..framing import Framed, Framing
from ..step import Step
from .admission import Demand, Refused
from .costs import Costs
from .gears import Branches
from .governor import Governor
from .pool import Pool, bucket_sizes
from .scheduler import BUDGET, Scheduler
from .stream import Stream, StreamClosed
from .worker import EngineError, Worker


class Engine(Worker):
    """Runs a model over streams that come and go.

        async with Engine(step, slots=8) as engine:
            stream = engine.add("cam", fps=15)
            await stream.push(frame)                      # or stream.offer(frame), any thread
            async for answer in stream: ...

    Args:
      step: the model.
      slots: streams held at once.
      buckets: batch sizes compiled ahead; default powers of two up to ``slots``, or ``slots``
        alone for a model that looks across streams.
      frame_shape: (h, w), default the card's.
      depth: steps launched before the first of them is answered.
      max_load: share of the time that admitted streams may need.
      costs: seconds per bucket; default: measured on start.
      order: who is served where not all can be in time: "fair" or "goodput".
      branches: ways to compute a step, the first of them ``step`` as it is
        (:func:`..ways.branches_of`); each is compiled and timed on start, and one is chosen as
        it goes, the most accurate that holds all streams. None: there is one way.
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
        order: str = "fair",
        branches: Branches | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(clock)
        self._order, self._branches = order, branches
        self.step, self.slots = step, slots
        self.buckets = bucket_sizes(step.model, slots, buckets)
        self.framing = Framing(step.card, frame_shape)
        self.frame_shape = self.framing.size
        if costs is not None and costs.buckets != self.buckets:
            raise ValueError(f"costs are of buckets {costs.buckets}, needed: {self.buckets}")
        self._max_load, self._depth = max_load, depth
        self._costs = costs
        self._draining = False

    # Life.

    async def start(self) -> Engine:
        """Compiles and times every bucket, then takes streams."""
        if self._threads or self._stopping:
            raise EngineError("an engine starts once; make another one")
        self._loop, self._empty = asyncio.get_running_loop(), asyncio.Event()

        def prepare() -> tuple[Pool, Costs, Governor | None]:
            ways = self._branches
            others = () if ways is None else ways.variants
            pool = Pool(self.step, self.slots, self.buckets, self.frame_shape, others)
            costs = pool.measure(8 if self._costs is None else 1)
            governor = None
            if ways is not None:
                timed = [costs, *(pool.measure(8, k + 1) for k in range(len(others)))]
                governor = Governor(ways.gears(timed), max_load=self._max_load)
            pool.warm()
            return pool, self._costs or costs, governor

        self._pool, self._costs, governor = await asyncio.to_thread(prepare)
        self.scheduler = Scheduler(
            self._costs, self.slots, max_load=self._max_load, depth=self._depth,
            order=self._order, governor=governor,
        )  # fmt: skip
        self._start()
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
        worth: float = 1.0,
        unread: int = 64,
        carry: Carry = None,
        start: int = 0,
        check: bool = True,
    ) -> Stream:
        """Takes a stream.

        Args:
          fps, budget, policy, capacity, worth, check: see :meth:`Scheduler.admit`.
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
                name, fps, budget=budget, policy=policy, capacity=capacity, worth=worth,
                check=check,
            )  # fmt: skip
            state.received = start
            state.room = None if policy == "latest" else unread
            state.tag = stream = Stream(self, state, unread, carry, start)
        return stream

    def refusal(
        self, fps: float, *, budget: float = BUDGET, without: Collection[Hashable] = ()
    ) -> str | None:
        """Why one stream more could not be held if those ``without`` were gone, or None."""
        with self._news:
            return self.scheduler.refusal(Demand(fps, budget), without=without)

    def offer(self, stream: Stream, frame: Framed, time: float | None, event: bool) -> int | None:
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

    async def snapshot(self, stream: Stream) -> tuple[int, Carry]:
        """See :meth:`Stream.snapshot`. Raises StreamClosed."""
        future: asyncio.Future[tuple[int, Carry]] = self._loop.create_future()
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

    def report(self) -> Json:
        """Load, and where every frame of every stream is; for JSON."""
        with self._news:
            streams = list(self.scheduler.streams.values())
            load, governor = self.scheduler.load(), self.scheduler.governor
            gear = None if governor is None else governor.to_dict()
        return {
            "slots": self.slots,
            "load": load,
            **({} if gear is None else {"branch": gear}),
            "step_ms": {b: 1e3 * self.scheduler.costs.mean(b) for b in self.buckets},
            "total": self.scheduler.ledger.total().to_dict(),
            "streams": {str(s.name): s.account.snapshot().to_dict() for s in streams},
        }

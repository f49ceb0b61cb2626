"""Which frames go into the next step: earliest deadline first, in padded batches; and where not
all can be in time, the same share of each stream.

Pure: the time and the costs of steps come from outside, so that the engine and the simulator
run this very code. Not thread-safe: the engine holds its lock around every call.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import math
from collections.abc import Collection, Hashable
from typing import Any

from . import admission
from .admission import Demand, Refused
from .costs import Costs
from .fairness import Faded, Overload
from .governor import Governor
from .ledger import Account, Ledger
from .queues import CLOSED, ERROR, SKIPPED, Dropped, Item, Queue, make_queue
from .worth import ORDERS, values

BUDGET = 0.12  # seconds from arrival to answer
Turn = tuple[bool, float, float]  # the smaller is served first


@dataclasses.dataclass(eq=False)
class StreamState:
    """One stream as the scheduler sees it. ``eq=False``: a name that comes again is another.

    Attributes:
      order: number of streams admitted before; breaks ties.
      received: frames taken, so the next frame's index.
      running: frames launched and not answered.
      unread: answers that the reader has not taken, counted where ``room`` is given.
      room: answers, running and unread, after which the stream waits for its reader.
      share: what it has been served lately, in seconds of its rate.
      worth: of an answer, against those of other streams, where the order is "goodput".
      left_out: frames since the last one that was to be computed, by the engine's gear.
      closed: no frames any more; ``finishing``: none are taken, those that wait are served.
    """

    name: Hashable
    demand: Demand
    queue: Queue
    account: Account
    order: int
    received: int = 0
    running: int = 0
    unread: int = 0
    room: int | None = None
    paused: bool = False
    finishing: bool = False
    closed: bool = False
    share: Faded = dataclasses.field(default_factory=Faded)
    worth: float = 1.0
    left_out: int = -1
    tag: Any = None  # for the engine

    @property
    def credits(self) -> int:
        """Frames that would be taken now."""
        return 0 if self.closed or self.finishing else self.queue.credits

    @property
    def ready(self) -> bool:
        if self.paused or not self.queue:
            return False
        return self.room is None or self.running + self.unread < self.room

    @property
    def idle(self) -> bool:
        return not self.queue and not self.running


@dataclasses.dataclass(eq=False)
class Batch:
    """Frames of different streams for one step, at most ``bucket`` of them; ``gear``: of the
    governor, by number."""

    bucket: int
    rows: list[tuple[StreamState, Item]]
    launched: float
    gear: int = 0


class Scheduler:
    """Streams, their queues and their books; decides what runs next.

        scheduler.admit("cam", fps=15)
        scheduler.offer("cam", frame, now)
        batch = scheduler.next(now)            # run it ...
        scheduler.done(batch, now)

    Args:
      costs: of the compiled buckets; kept current through :meth:`done`.
      slots: streams that can be held at once.
      max_load: share of the time that admitted streams may need.
      depth: steps launched before the first of them is answered.
      order: who is served where not all can be in time: "fair", the same share of each stream, or
        "goodput", what is worth most per second that it takes (JITServe).
      governor: chooses how each step is computed; its gear's costs stand in for ``costs``.
    """

    def __init__(
        self, costs: Costs, slots: int, *, max_load: float = 0.9, depth: int = 1,
        order: str = "fair", governor: Governor | None = None,
    ):  # fmt: skip
        if order not in ORDERS:
            raise ValueError(f"order {order!r}: it is one of {', '.join(ORDERS)}")
        if slots < 1 or depth < 1 or not max_load > 0:
            raise ValueError(f"slots={slots}, depth={depth}, max_load={max_load}: all are above 0")
        # a gear keeps what it costs alone; what is learned goes into a copy
        self.costs = costs if governor is None else governor.costs()
        self.slots = slots
        self.order, self.governor = order, governor
        self.max_load, self.depth = max_load, depth
        self.ledger, self.overload = Ledger(), Overload()
        self.streams: dict[Hashable, StreamState] = {}
        self.running: list[Batch] = []
        self._waiting: dict[StreamState, None] = {}  # streams whose queue is not empty
        self._free = 0.0  # when what is launched should be answered
        self._admitted = 0

    # Streams come and go.

    def demands(self) -> list[Demand]:
        """What the streams that are not paused ask for."""
        return [s.demand for s in self.streams.values() if not s.paused]

    def load(self) -> float:
        """Estimated share of the time that steps take."""
        return admission.load(self.costs, self.demands())

    def admit(
        self,
        name: Hashable,
        fps: float,
        *,
        budget: float = BUDGET,
        policy: str = "latest",
        capacity: int | None = None,
        worth: float = 1.0,
        check: bool = True,
    ) -> StreamState:
        """Takes a stream of ``fps`` frames per second.

        Args:
          budget: seconds from a frame's arrival to its answer.
          policy, capacity: what happens to frames that wait (see :func:`make_queue`).
          worth: see :class:`StreamState`.
          check: whether to refuse what cannot be held in time.

        Raises:
          Refused: no slot is free, or the stream cannot be held within the budgets.
          ValueError: the name is taken, or a number makes no sense.
        """
        if name in self.streams:
            raise ValueError(f"stream {name!r} is there already; remove it first")
        if not all(number > 0 and math.isfinite(number) for number in (fps, budget, worth)):
            told = f"fps={fps}, budget={budget}, worth={worth}"
            raise ValueError(f"stream {name!r}: {told}; all are above 0")
        queue, demand = make_queue(policy, capacity), Demand(fps, budget)
        self._check(name, self.refusal(demand, load=check))
        state = StreamState(
            name, demand, queue, self.ledger.open(name), self._admitted, worth=worth
        )
        self._admitted += 1
        self.streams[name] = state
        return state

    def refusal(
        self, demand: Demand, *, without: Collection[Hashable] = (), load: bool = True
    ) -> str | None:
        """Why one stream more cannot be held, or None.

        Args:
          without: streams taken as gone.
          load: whether its share of the time counts, and not only its slot.
        """
        streams = [s for name, s in self.streams.items() if name not in without]
        if len(streams) >= self.slots:
            return (
                f"all {self.slots} slots are taken; remove a stream, or start with more (--slots)"
            )
        demands = [s.demand for s in streams if not s.paused]
        return self._overload([*demands, demand]) if load else None

    def _overload(self, demands: list[Demand]) -> str | None:
        hold = lambda costs, demands: admission.refusal(
            costs, demands, max_load=self.max_load, depth=self.depth
        )
        if self.governor is None:
            return hold(self.costs, demands)
        return self.governor.refusal(demands, hold)

    @staticmethod
    def _check(name: Hashable, why: str | None) -> None:
        if why is not None:
            raise Refused(f"stream {name!r} refused: {why}")

    def _state(self, name: Hashable) -> StreamState:
        if name not in self.streams:
            raise KeyError(f"no stream {name!r}; there are {list(self.streams)}")
        return self.streams[name]

    def pause(self, name: Hashable) -> None:
        """The stream keeps its slot and state, and gives up its share of the time."""
        self._state(name).paused = True

    def resume(self, name: Hashable) -> None:
        """Goes on after :meth:`pause`. Raises Refused: others took its share of the time."""
        state = self._state(name)
        if state.paused:
            self._check(name, self._overload([*self.demands(), state.demand]))
            state.paused = False

    def remove(self, name: Hashable) -> Dropped:
        """Lets the stream go: what waits is dropped, what runs is dropped when it ends."""
        state = self._state(name)
        for _, reason in (dropped := state.queue.clear()):
            state.account.drop(reason)
        self._waiting.pop(state, None)
        state.closed = True
        del self.streams[name]
        self.ledger.close(name)
        return dropped

    # Frames come and go.

    def _dropped(self, state: StreamState, dropped: Dropped, now: float) -> Dropped:
        for _, reason in dropped:
            state.account.drop(reason)
        self.overload.lost(len(dropped), now)
        return dropped

    def offer(
        self, name: Hashable, payload: Any, now: float, *, event: bool = False
    ) -> Item | None:
        """Takes a frame that came at ``now``; None if the stream has no credit for it."""
        state = self._state(name)
        item = Item(state.received, now, now + state.demand.budget, event, payload)
        if self._leaves_out(state, item):
            state.received += 1
            state.account.receive()
            state.account.drop(SKIPPED)
            return item
        taken, dropped = (False, []) if state.finishing else state.queue.offer(item)
        if not taken:
            state.account.refuse()
            return None
        state.received += 1
        state.account.receive()
        self.overload.took(now)
        self._dropped(state, dropped, now)
        self._waiting[state] = None
        return item

    def _leaves_out(self, state: StreamState, item: Item) -> bool:
        """Whether the gear's interval leaves this frame out: never one that its queue spares."""
        if self.governor is None or state.finishing or state.queue.spares(item):
            return False
        state.left_out = (state.left_out + 1) % self.governor.gear.every
        return state.left_out != 0

    def next(self, now: float) -> Batch | None:
        """The step to launch now, or None while there is no work or ``depth`` steps run."""
        if len(self.running) >= self.depth:
            return None
        if not any(s.ready for s in self._waiting):
            return None
        if self.governor is not None and self.governor.next(self.demands()):
            self.costs = self.governor.costs()
        start = max(now, self._free) if self.running else now
        soonest = start + self.costs.mean(self.costs.buckets[0])
        heads = [(self._due(s, soonest), s.order, s) for s in self._waiting if s.ready]
        heads.sort()
        ranked = [(0.0, *head) for head in heads]
        bucket = self._bucket([due for due, _, _ in heads[: 2 * self.costs.largest]], start)
        if self.overload(now):
            turns = self._turns([s for _, _, s in heads], now)
            ranked = sorted((turns[s], due, order, s) for due, order, s in heads)
            bucket = self._fullest(heads[-1][0] - start, len(heads))
        rows = []
        for state in self._chosen(ranked, bucket, start + self.costs.high(bucket), now):
            rows.append((state, state.queue.pop()))
            state.share.add(1 / state.demand.fps, now)
            state.running += 1
            state.account.start()
            if not state.queue:
                del self._waiting[state]
        gear = 0 if self.governor is None else self.governor.chosen
        batch = Batch(self.costs.bucket(len(rows)), rows, now, gear)
        self.running.append(batch)
        self._free = start + self.costs.mean(batch.bucket)
        return batch

    def _chosen(self, heads: list[Any], bucket: int, end: float, now: float) -> list[StreamState]:
        """The streams of a step that ends at ``end``; what would be late by then is dropped.

        Unless everything would be late: a late answer is better than none, and the costs that
        say so may have passed.
        """
        chosen: list[StreamState] = []
        hopeless = all(s.queue.last.deadline < end for *_, s in heads)
        while heads and len(chosen) < bucket:
            share, _, order, state = heapq.heappop(heads)  # a sorted list is a heap
            if not hopeless and self._dropped(state, state.queue.shed(end), now):
                if state.queue:
                    heapq.heappush(heads, (share, self._due(state, end), order, state))
                else:
                    del self._waiting[state]
            else:
                chosen.append(state)
        return chosen

    @staticmethod
    def _due(state: StreamState, soonest: float) -> float:
        """When the stream's oldest frame is due, for the order of frames.

        Plain earliest-deadline-first would serve a backlog that is late before all others and
        make those late too. So a late frame that must stay is renewed, once, when its turn
        comes: it counts as if it had come now. A backlog gets what is left over, and at least
        one frame per budget.
        """
        head, budget = state.queue.head, state.demand.budget
        if head.due < soonest and not head.renewed and state.queue.spares(head):
            head.due, head.renewed = soonest + budget, True
        return head.due

    def _turns(self, states: list[StreamState], now: float) -> dict[StreamState, Turn]:
        """Under overload: events first, as they are due, then by worth per second or alike, then
        who has had the least."""
        worth = dict.fromkeys(states, 0.0)
        if self.order == "goodput":
            waiting = [(s.queue.head.arrived, s.demand.budget, s.worth) for s in states]
            unit = self.costs.mean(self.costs.buckets[0])
            worth = dict(zip(states, values(waiting, now, unit), strict=True))
        found: dict[StreamState, Turn] = {}
        for state in states:
            event = state.queue.event
            served = worth[state], state.share(now)
            found[state] = (True, *served) if event is None else (False, event.deadline, 0.0)
        return found

    def _fullest(self, seconds: float, frames: int) -> int:
        """Batch size that serves the most frames per second, if one of them ends in time."""
        sizes = [b for b in self.costs.buckets if self.costs.high(b) <= seconds]
        rate = lambda b: min(b, frames) / self.costs.mean(b)
        return max(sizes or self.costs.buckets, key=rate)

    def _bucket(self, due: list[float], start: float) -> int:
        """Batch size for frames that are due at these times: fewest late, then least work."""

        def plan(bucket: int) -> tuple[int, float, int]:
            end, work, late, at = start, 0.0, 0, 0
            while at < len(due):
                chunk = self.costs.bucket(min(bucket, len(due) - at))
                end += self.costs.high(chunk)
                work += self.costs.mean(chunk)
                hopeful = bisect.bisect_left(due, end, at)
                late += hopeful - at
                at = hopeful + chunk
            return late, work, bucket

        late, _, bucket = min(plan(b) for b in self.costs.buckets)
        if late == len(due):
            bucket = min(self.costs.buckets, key=lambda b: self.costs.mean(b) / min(b, late))
        return min(bucket, self.costs.bucket(len(due)))

    def _end(self, batch: Batch, now: float) -> list[tuple[StreamState, Item]]:
        self.running.remove(batch)
        if not self.running:
            self._free = now
        kept = []
        for state, item in batch.rows:
            state.running -= 1
            if state.closed:
                state.account.drop(CLOSED, running=True)
            else:
                kept.append((state, item))
        return kept

    def _took(self, batch: Batch, seconds: float) -> None:
        if self.governor is not None:
            self.governor.took(batch.gear, batch.bucket, seconds)
            if batch.gear != self.governor.chosen:
                return  # launched before the gear changed: no cost of this one
        self.costs.add(batch.bucket, seconds)

    def done(
        self, batch: Batch, now: float, seconds: float | None = None
    ) -> list[tuple[StreamState, Item]]:
        """The step is answered, and took ``seconds``; returns the rows somebody still wants."""
        if seconds is not None:
            self._took(batch, seconds)
        kept = self._end(batch, now)
        for state, item in kept:
            state.account.complete(late=now > item.deadline)
            self.overload.lost(now > item.deadline, now)
            state.unread += state.room is not None
        return kept

    def fail(self, batch: Batch, now: float) -> list[tuple[StreamState, Item]]:
        """The step raised: its frames are dropped; returns the rows somebody still wants."""
        kept = self._end(batch, now)
        for state, _ in kept:
            state.account.drop(ERROR, running=True)
            state.unread += state.room is not None
        return kept

    def read(self, state: StreamState) -> None:
        """The reader took an answer of a stream with ``room``."""
        state.unread -= state.room is not None

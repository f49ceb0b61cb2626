"""Exact accounting: where every frame of a stream is, at all times.

    received = completed + dropped{reason} + waiting + running

A frame that is refused for want of a credit was never received: it is still the sender's.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Hashable, Mapping

from ...layers.streaming import Json


class LedgerError(RuntimeError):
    """A move that the books do not allow, such as completing a frame that is not running."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The books of one stream (or a sum of them) at one moment. All counts are frames.

    Attributes:
      received: taken in.
      completed: answered.
      waiting, running: in the queue; in a batch that is launched.
      dropped: by reason.
      late: completed after their deadline (a part of ``completed``).
      refused: offered without a credit; not part of ``received``.
      overwritten: answers that their reader was too slow for (a part of ``completed``).
    """

    received: int = 0
    completed: int = 0
    waiting: int = 0
    running: int = 0
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    late: int = 0
    refused: int = 0
    overwritten: int = 0

    @property
    def in_flight(self) -> int:
        return self.waiting + self.running

    @property
    def balanced(self) -> bool:
        """The law: received = completed + dropped + in flight."""
        return self.received == self.completed + sum(self.dropped.values()) + self.in_flight

    def __add__(self, other: Snapshot) -> Snapshot:
        dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        names = [f.name for f in dataclasses.fields(self) if f.name != "dropped"]
        return Snapshot(dropped=dropped, **{n: getattr(self, n) + getattr(other, n) for n in names})

    def to_dict(self) -> Json:
        """For JSON."""
        return dict(dataclasses.asdict(self), in_flight=self.in_flight)


class Account:
    """One stream's books. Every method is one indivisible move; any thread may call it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def _move(self, source: str | None, *targets: str, reason: str | None = None) -> None:
        with self._lock:
            if source is not None:
                if self._count[source] < 1:
                    raise LedgerError(f"no frame is {source}; it cannot move on")
                self._count[source] -= 1
            for target in targets:
                self._count[target] += 1
            if reason is not None:
                self._dropped[reason] += 1

    def receive(self) -> None:
        """A frame comes in and waits."""
        self._move(None, "received", "waiting")

    def start(self) -> None:
        """A waiting frame is launched."""
        self._move("waiting", "running")

    def complete(self, late: bool = False) -> None:
        """A running frame is answered."""
        self._move("running", *(("completed", "late") if late else ("completed",)))

    def drop(self, reason: str, *, running: bool = False) -> None:
        """A waiting frame, or a running one, is given up."""
        self._move("running" if running else "waiting", reason=reason)

    def refuse(self) -> None:
        """A frame was offered without a credit and not taken."""
        self._move(None, "refused")

    def overwrite(self) -> None:
        """An answer was replaced by a newer one before anyone read it."""
        self._move(None, "overwritten")

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(
                dropped=dict(self._dropped), **{k: v for k, v in self._count.items() if k}
            )


class Ledger:
    """The accounts of all streams. Those of streams that are gone are kept as one sum."""

    def __init__(self):
        self._lock = threading.Lock()
        self._open: dict[Hashable, Account] = {}
        self._closing: list[Account] = []  # their streams are gone, a frame still runs
        self._closed = Snapshot()

    def open(self, name: Hashable) -> Account:
        """The account of a new stream."""
        with self._lock:
            if name in self._open:
                raise LedgerError(f"stream {name!r} has an account already")
            self._open[name] = account = Account()
            return account

    def close(self, name: Hashable) -> None:
        """The stream is gone; what still runs of it is counted until it ends."""
        with self._lock:
            self._closing.append(self._open.pop(name))
            self._settle()

    def _settle(self) -> None:
        waiting = []
        for account in self._closing:
            books = account.snapshot()
            if books.in_flight:
                waiting.append(account)
            else:
                self._closed += books
        self._closing = waiting

    def report(self) -> dict[Hashable, Snapshot]:
        """{stream: books} of the open streams."""
        with self._lock:
            return {name: account.snapshot() for name, account in self._open.items()}

    def total(self) -> Snapshot:
        """The sum over all streams there have ever been."""
        with self._lock:
            self._settle()
            total = self._closed
            for account in [*self._open.values(), *self._closing]:
                total += account.snapshot()
            return total

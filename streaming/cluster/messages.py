"""What replicas, the directory and clients say to each other."""

from __future__ import annotations

import dataclasses


class Full(RuntimeError):
    """No replica has a free slot; the message says what there is."""


class Settling(RuntimeError):
    """The directory has just started; who holds the session may not have said so yet."""


@dataclasses.dataclass(frozen=True)
class Load:
    """A replica's load.

    Attributes:
      slots: streams that it can hold at once.
      idle: sessions that it keeps without a slot: parked, or ended with results to fetch.
      queued: frames that wait in it.
      lateness: 99th percentile of latency / budget over the last seconds; 0 without answers.
    """

    slots: int
    idle: int = 0
    queued: int = 0
    lateness: float = 0.0


@dataclasses.dataclass(frozen=True)
class Held:
    """A session as its replica knows it; epoch 0: the directory has not told it yet."""

    epoch: int = 0
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a session is to go; ``moved``: somebody else had it before."""

    sid: str
    replica: str
    endpoint: str
    epoch: int
    moved: bool = False


@dataclasses.dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat: leases that go on, sessions that are others', and how many
    clients have found no slot anywhere lately."""

    leases: dict[str, Held]
    lost: list[str]
    waiting: int = 0

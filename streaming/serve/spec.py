"""What a session is opened with, where it goes on from, and the name of it on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import math

from ...layers.streaming import Carry
from .limits import ServeError
from .recent import Record


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a session is opened with; see :meth:`Engine.add`.

    ``budget``: seconds. ``policy``: "latest", "lossless" or "events". ``worth``: of an answer,
    where the engine's order is "goodput".
    """

    fps: float = 15.0
    budget: float = 0.12
    policy: str = "latest"
    capacity: int | None = None
    worth: float = 1.0

    def __post_init__(self):
        for name in ("fps", "budget", "worth"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise ServeError("bad_request", f"{name}={value!r}: give a number above 0")
        if self.policy not in ("latest", "lossless", "events"):
            raise ServeError(
                "bad_request", f"policy={self.policy!r}: it is latest, lossless or events"
            )
        if self.capacity is not None and (
            not isinstance(self.capacity, int) or not 1 <= self.capacity <= 64
        ):
            raise ServeError("bad_request", f"capacity={self.capacity!r}: give 1 to 64 frames")


@dataclasses.dataclass
class Start:
    """Where a session goes on from, if not from the beginning."""

    carry: Carry = None
    next: int = 0
    last: int = 0
    records: list[Record] = dataclasses.field(default_factory=list)


def token_key(token: str) -> str:
    """A name for what belongs to a token, from which the token cannot be found."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""What a server allows, in one place."""

from __future__ import annotations

import dataclasses

from ...zoo.ranges import Checked, Count, Positive
from ..sources.redaction import scrub


@dataclasses.dataclass(frozen=True)
class Limits(Checked):
    """Bounds on everything that a client can make grow. Times in seconds, sizes in bytes.

    Attributes:
      keep: results held per session for a client that is slow or away.
      ttl: how long a session waits for a client that is away.
      streams_per_client: sessions that one client, by its auth token, or its address without one,
        is connected to at once.
      message: largest message.
      pixels: largest frame, height x width.
      parked: sessions that wait without a slot, their state kept here; beyond it those that are
        away for longest are forgotten.
      handshake: for a connection's first request, for the rest of any head or body that has begun,
        and for a WebSocket's first message.
      connections: open at once.
      errors: bad messages after which a connection is closed.
    """

    keep: Count = 256
    ttl: Positive = 60.0
    streams_per_client: Count = 8
    message: Count = 8 << 20
    pixels: Count = 3840 * 2160
    parked: Count = 64
    handshake: Positive = 5.0
    connections: Count = 2048
    errors: Count = 100


LETTERS = 500  # of a message: it may repeat what a client sent


class ServeError(ValueError):
    """What a client is told: a code for programs, a message for people.

    Addresses in the message are redacted, and it is cut where it is very long.
    """

    def __init__(self, code: str, message: str):
        text = scrub(message[: 4 * LETTERS])
        super().__init__(text if len(text) <= LETTERS else text[: LETTERS - 4] + " ...")
        self.code = code

"""What a server allows, in one place."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on everything that a client can make grow. Times in seconds, sizes in bytes.

    Attributes:
      keep: results held per session for a client that is slow or away.
      ttl: how long a session waits for a client that is away.
      streams_per_client: sessions of one client, by its auth token, or its address without one.
      message: largest message.
      pixels: largest frame, height x width.
      parked: sessions that wait without a slot, their state kept here.
      handshake: for the first request of a connection, and for a WebSocket's first message.
      connections: open at once.
      errors: bad messages after which a connection is closed.
    """

    keep: int = 256
    ttl: float = 60.0
    streams_per_client: int = 8
    message: int = 8 << 20
    pixels: int = 3840 * 2160
    parked: int = 64
    handshake: float = 5.0
    connections: int = 2048
    errors: int = 100

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"limit {field.name}={value}: it is above 0")


class ServeError(ValueError):
    """What a client is told: a code for programs, a message for people."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code

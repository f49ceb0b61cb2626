"""Asking a tool while the question is still being said, and dropping what turned out wrong.

Source: Arora et al., "Stream RAG: Instant and Accurate Spoken Dialogue Systems with Streaming Tool
Usage" (arXiv 2510.02044): queries are predicted from what was heard so far; the answer to one
that still stands at the end is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Speculation(NamedTuple):
    """query: the one that is out, None for none; since: when it was sent; sent, cancelled: how
    many."""

    query: str | None = None
    since: float = 0.0
    sent: int = 0
    cancelled: int = 0


@dataclass(frozen=True)
class Speculate:
    """Sends a query once it was predicted ``stable`` times in a row, and again when it changed.

    Attributes:
      stable: predictions in a row that are equal before one is sent.
    """

    stable: int = 2

    def begin(self) -> tuple[Speculation, tuple[str, int]]:
        """Nothing was heard: (what is out, (the last prediction, how often in a row))."""
        return Speculation(), ("", 0)

    def __call__(
        self, state: tuple[Speculation, tuple[str, int]], heard: tuple[str, float]
    ) -> tuple[tuple[Speculation, tuple[str, int]], str | None]:
        """(prediction, time in s) -> the query to send now, None for none."""
        out, (last, count) = state
        query, now = heard
        count = min(count + 1, self.stable) if query == last else 1
        send = bool(query) and count >= self.stable and query != out.query
        if send:
            out = Speculation(query, now, out.sent + 1, out.cancelled + (out.query is not None))
        return (out, (query, count)), query if send else None

    @staticmethod
    def wait(out: Speculation, final: str, now: float, takes: float) -> float:
        """Seconds until the tool's answer to the final question is there, of a tool that takes so
        long: what is out counts if it is that question."""
        since = out.since if out.query == final else now
        return max(0.0, since + takes - now)

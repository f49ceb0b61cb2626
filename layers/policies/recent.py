"""The first tokens and the latest ones: attention sinks with a window; without sinks a plain one.

Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from ..memory import Slots, View, joined, numbered, placed
from ..streaming import Array
from .policy import Arrival

POSITIONS = ("absolute", "cache")


@dataclass(frozen=True)
class Recent:
    """Keeps the first ``sinks`` tokens and the latest ``recent`` ones.

    Attributes:
      sinks: tokens that stay for ever.
      recent: latest tokens, the one that reads included.
      positions: ``absolute``: a token keeps the position that it came with; ``cache``: its place
        among what is kept, so that the sinks stand right before the window however old they are.

    Raises:
      ValueError: fewer than one recent token, or another word for the positions.
    """

    sinks: int = 0
    recent: int = 1024
    positions: str = "absolute"

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.recent < 1:
            raise ValueError(
                f"{self.sinks} sinks and {self.recent} recent tokens: at least 0 and 1"
            )
        if self.positions not in POSITIONS:
            raise ValueError(f"positions {self.positions!r}: choose from {POSITIONS}")

    @property
    def capacity(self) -> int:
        return self.sinks + self.recent

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        return {"place": (axes,)}

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """``told`` may have ``place`` [B, T, axes]: positions that the model gives its tokens."""
        serial, seen = numbered(slots, valid)
        place, after = placed(slots, valid, axes, told)
        new = {"serial": serial, "place": place}
        held = joined(slots.notes, new, "serial")
        now, then = serial[:, :, None], held[:, None]
        seen_by = (then >= 0) & (then <= now) & ((then < self.sinks) | (then > now - self.recent))
        stays = valid & ((serial < self.sinks) | (serial >= (seen - self.recent)[:, None]))
        turn = self.sinks + (serial - self.sinks) % self.recent
        slot = jnp.where(serial < self.sinks, serial, turn)
        slot = jnp.where(stays, slot, self.capacity)
        view = self._cached(serial, held, slots) if self.positions == "cache" else None
        if view is None:
            at = joined(slots.notes, new, "place") - slots.next[:, None, None]
            queries = (new["place"] - slots.next[:, None, None])[:, :, None]
            view = View(seen_by, at, queries)
        return Arrival(new, view._replace(seen=seen_by), slot, seen, after)

    def _cached(self, serial: Array, held: Array, slots: Slots) -> View:
        """Two groups: the sinks, and the window, whose distances do not change."""
        base = slots.seen[:, None]
        sink = held < self.sinks
        keys = jnp.where(sink, held, held - base)
        window = serial - base
        sinks = jnp.minimum(serial, self.capacity - 1)
        queries = jnp.stack([window, sinks], axis=2)[..., None]
        return View(held[:, None] >= 0, keys[..., None], queries, sink.astype(jnp.int32))

"""Two texts side by side: what is watched, and what is thought or said about it.

The watched one never sees the other, so it goes on whatever is being said; the other sees both.
Each has its own slots, and positions of its own.

Sources: Wang et al., "Think While Watching" (code: wl666hhh/Think_While_Watching); Tong et al.,
"Speak While Watching" (code: EIT-NLP/Speak-While-Watching), whose answers count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from ..memory import Slots, View, joined, numbered
from ..streaming import Array
from .policy import Arrival

WATCHED, SAID = 0, 1  # the note ``segment``


@dataclass(frozen=True)
class Dual:
    """Keeps the latest ``watched`` and the latest ``said`` tokens.

    Attributes:
      watched, said: slots of each.

    Raises:
      ValueError: none of either.
    """

    watched: int = 1024
    said: int = 256

    def __post_init__(self) -> None:
        if min(self.watched, self.said) < 1:
            raise ValueError(
                f"{self.watched} slots of what is watched, {self.said} of what is said"
            )

    @property
    def capacity(self) -> int:
        return self.watched + self.said

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        return {"segment": (), "number": (), "place": (axes,)}

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """``told`` may have ``segment`` [B, T], :data:`WATCHED` by default, and ``place``
        [B, T, axes]; by default a token's number among those of its kind."""
        serial, seen = numbered(slots, valid)
        watched = jnp.full(valid.shape, WATCHED, jnp.int32)
        segment = jnp.asarray(told.get("segment", watched), jnp.int32)
        number = jnp.zeros_like(serial)
        counts = []  # of each kind, with the token that reads: [B, T]
        for kind in (WATCHED, SAID):
            old = (slots.notes["serial"] >= 0) & (slots.notes["segment"] == kind)
            before = jnp.max(jnp.where(old, slots.notes["number"] + 1, 0), axis=1)
            own = valid & (segment == kind)
            count = before[:, None] + jnp.cumsum(own, axis=1, dtype=jnp.int32)
            number = jnp.where(own, count - 1, number)
            counts.append(count)
        plain = jnp.broadcast_to(number[..., None], (*valid.shape, axes))
        place = jnp.asarray(told.get("place", plain), jnp.int32)
        new = {"serial": serial, "segment": segment, "number": number, "place": place}
        sizes = jnp.asarray([self.watched, self.said], jnp.int32)
        both = {name: joined(slots.notes, new, name) for name in new}
        kind = both["segment"]
        now = jnp.stack(counts, axis=-1)  # [B, T, 2]
        count = jnp.where(kind[:, None] == SAID, now[..., SAID, None], now[..., WATCHED, None])
        kept = both["number"][:, None] >= count - sizes[kind][:, None]
        then = both["serial"][:, None]
        came = (then >= 0) & (then <= serial[..., None])
        sees = (kind == WATCHED)[:, None] | (segment == SAID)[..., None]
        size = sizes[segment]
        last = jnp.where(segment == SAID, now[:, -1:, SAID], now[:, -1:, WATCHED])
        stays = valid & (number >= last - size)
        slot = jnp.mod(number, size) + jnp.where(segment == SAID, self.watched, 0)
        slot = jnp.where(stays, slot, self.capacity)
        view = View(came & kept & sees & valid[..., None], both["place"], place[:, :, None])
        return Arrival(new, view, slot, seen, slots.next + (seen - slots.seen))

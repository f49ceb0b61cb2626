"""Position laws of a rollout: where remembered frames and new ones stand when they are read.

Keys are kept un-rotated, so a place in time is given at read and may differ from pass to pass. A
law gets which frames are read and says where they stand. Only differences count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from ..streaming import Array
from .keep import ANCHOR, CONDITION, OWN, PRIOR, SINK


class Reads(NamedTuple):
    """What a position law is told: K keys, the last F of which are the pass's own frames.

    Attributes:
      ids: [B, K] int32, numbers of frames; for a condition its own place.
      seen: [B, K] bool, keys that are read.
      region, number: [K], of each key's slot (``keep``); own frames are ``OWN``.
      own: [B, F] int32, numbers of the frames that read, -1 for none.
      cut: [B] bool, a new scene begins with these frames.
    """

    ids: Array
    seen: Array
    region: np.ndarray
    number: np.ndarray
    own: Array
    cut: Array

    @property
    def start(self) -> Array:
        """[B] int32: the first of the own frames."""
        far = jnp.iinfo(jnp.int32).max
        return jnp.where(self.own >= 0, self.own, far).min(axis=1)

    @property
    def end(self) -> Array:
        """[B] int32: the frame after the last own one."""
        return self.own.max(axis=1) + 1

    def of(self, *regions: int) -> Array:
        """[1, K] bool: keys of these regions."""
        return jnp.asarray(np.isin(self.region, regions))[None]

    @property
    def place(self) -> Array:
        """[1, K] int32: the place of each key in its region."""
        return jnp.asarray(self.number, jnp.int32)[None]


class Positions(Protocol):
    """A position law."""

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        """(places of the keys [B, K], of the queries [B, F]), int32."""
        ...


@dataclass(frozen=True)
class Absolute:
    """A frame stands where it stood when it was made (Self-Forcing, LongLive)."""

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        return reads.ids, reads.own


@dataclass(frozen=True)
class Ranked:
    """Frames stand side by side, from 0 on, whatever left from between (LongLive's infinite
    attention; Infinity-RoPE).

    Attributes:
      cut_at: where the frames of a new scene stand for one block, far from the old ones
        (Infinity-RoPE's cut: 45); None: beside them, as always.
    """

    cut_at: int | None = None

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        before = reads.seen[:, None] & (reads.ids[:, None] < reads.ids[:, :, None])
        keys = before.sum(axis=2, dtype=jnp.int32)
        last = reads.seen.sum(axis=1, dtype=jnp.int32)[:, None] - 1
        back = reads.end[:, None] - 1 - reads.own
        queries = last - back
        if self.cut_at is None:
            return keys, queries
        frames = reads.own.shape[1]
        after = jnp.arange(self.cut_at, self.cut_at + frames, dtype=jnp.int32)[None]
        queries = jnp.where(reads.cut[:, None], after, queries)
        own = jnp.where(reads.cut[:, None], after, keys[:, -frames:])
        return jnp.concatenate([keys[:, :-frames], own], axis=1), queries


@dataclass(frozen=True)
class Regions:
    """Sinks, anchors and recent frames have places of their own, none beyond ``end`` (Anchor
    Forcing's tri-region RoPE).

    Attributes:
      anchors: place of the first anchor.
      end: one more than the largest place, at which the newest frame stands once the stream is
        longer than that.
    """

    anchors: int = 6
    end: int = 21

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        over = jnp.maximum(reads.end - self.end, 0)[:, None]
        keys = jnp.where(reads.of(SINK), reads.place, reads.ids - over)
        keys = jnp.where(reads.of(ANCHOR, PRIOR), self.anchors + reads.place, keys)
        return keys, reads.own - over


@dataclass(frozen=True)
class Adjacent:
    """Recent frames where they were made, the sinks right before them (Rolling Forcing; Deep
    Forcing's deep sink).

    Attributes:
      gap: from the last sink to the first of the others: 1 for neighbours; 0 for Deep Forcing,
        whose sinks move by first tail - last sink (arXiv 2512.05081, section 4.2).
    """

    gap: int = 1

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        far = jnp.iinfo(jnp.int32).max
        others = reads.seen & ~reads.of(SINK)
        first = jnp.where(others, reads.ids, far).min(axis=1)[:, None]
        sinks = (reads.seen & reads.of(SINK)).sum(axis=1, dtype=jnp.int32)[:, None]
        beside = first - self.gap - (sinks - 1) + reads.place
        moved = reads.of(SINK) & (first - 1 - (sinks - 1) + reads.place > reads.ids)
        return jnp.where(moved, beside, reads.ids), reads.own


@dataclass(frozen=True)
class Ahead:
    """Frames where they were made; a condition at its own place, and never less than ``distance``
    ahead of the frames that read it (Live Avatar; Knot Forcing's running-ahead reference).

    Attributes:
      distance: from the first frame that reads to the condition.
    """

    distance: int = 12

    def __call__(self, reads: Reads) -> tuple[Array, Array]:
        ahead = reads.start[:, None] + self.distance + reads.place
        keys = jnp.where(reads.of(CONDITION), jnp.maximum(reads.ids, ahead), reads.ids)
        # a condition that reads itself stands at its own place
        return keys, reads.own


__all__ = ["OWN", "Absolute", "Adjacent", "Ahead", "Positions", "Ranked", "Reads", "Regions"]

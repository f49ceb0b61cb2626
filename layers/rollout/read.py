"""Read lists of a rollout: which of the remembered frames a pass reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..streaming import Array
from .keep import ANCHOR, CONDITION, OWN, PRIOR, RECENT, SINK, SLOW, TOP, Keep
from .positions import Absolute, Positions, Reads
from .table import Table


class Marks(NamedTuple):
    """What a stream knows of its prompts; each [B].

    since: int32, the first frame under the present prompt.
    prompts: int32, prompts so far.
    cut: bool, the next block begins a new scene.
    """

    since: Array
    prompts: Array
    cut: Array


@dataclass(frozen=True)
class Read:
    """A read list, and where its frames stand.

    Attributes:
      window: frames that are read at most, own frames and sinks included; anchors and conditions
        come on top.
      sinks: sinks are read however old they are; False: only while they are in the window.
      positions: the position law.
      bridge: the anchor of the prompt before is read from this prompt on, until the new one is; 0:
        never. Anchor Forcing: 4.
    """

    window: int
    sinks: bool = True
    positions: Positions = field(default_factory=Absolute)
    bridge: int = 0

    def reach(self, keep: Keep, frames: int) -> int:
        """Recent frames that a pass of ``frames`` frames reads."""
        return self.window - keep.sinks * self.sinks - frames

    def table(self, keep: Keep, ids: Array, own: Array, marks: Marks) -> Table:
        """What a pass reads.

        Args:
          keep: the law by which ``ids`` came where they are.
          ids: [B, C] int32, the frame in each slot, -1 for none.
          own: [B, F] int32, the frames of the pass, -1 for none.
          marks: of the streams.
        """
        count = (own >= 0).sum(axis=1, dtype=jnp.int32)
        start = jnp.where(own >= 0, own, jnp.iinfo(jnp.int32).max).min(axis=1)
        reach = self.window - keep.sinks * self.sinks - count
        before = (ids >= 0) & (ids < start[:, None])
        near = before & (ids >= (start - reach)[:, None])
        region = jnp.asarray(keep.region)[None]
        # refreshed sinks take frames out of turn: what the ring has is recent, however old
        seen = (near if keep.refresh is None else before) & (region == RECENT)
        seen |= (before if self.sinks else near) & (region == SINK)
        seen |= before & ~(ids >= (start - reach)[:, None]) & (region == SLOW)
        seen |= before & (region == TOP)
        seen |= (ids >= 0) & (region == CONDITION)
        if keep.anchors:
            # an anchor is read once it has left the window, and one block more has passed
            ready = marks.since + self.window - keep.sinks < start
            ready &= marks.prompts > 1
            seen |= before & ready[:, None] & (region == ANCHOR)
            if self.bridge:
                bridged = ~ready & (marks.prompts >= self.bridge)
                seen |= before & bridged[:, None] & (region == PRIOR)
        return self._placed(keep, ids, seen, own, own >= 0, marks)

    def again(self, keep: Keep, ids: Array, own: Array, marks: Marks, sinks: bool) -> Table:
        """What a pass reads that makes the memory anew from its own frames (a new prompt).

        Args:
          keep, ids, own, marks: as of :meth:`table`; ``own`` are the latest frames of the stream.
          sinks: the sinks stay and are read; of the own frames as many, the first, only read.
        """
        here = own >= 0
        rank = jnp.cumsum(here, axis=1, dtype=jnp.int32) - 1
        sink = jnp.asarray(keep.region == SINK)[None] & sinks
        seen = (ids >= 0) & sink
        seen |= (ids >= 0) & jnp.asarray(keep.region == CONDITION)[None]
        fresh = here & (rank >= keep.sinks) if sinks else here
        return self._placed(keep, ids, seen, own, fresh, marks)

    def _placed(
        self, keep: Keep, ids: Array, seen: Array, own: Array, fresh: Array, marks: Marks
    ) -> Table:
        frames = own.shape[1]
        region = np.concatenate([keep.region, np.full(frames, OWN)])
        index = np.concatenate([keep.index, np.arange(frames)])
        every = jnp.concatenate([ids, own], axis=1)
        seen = jnp.concatenate([seen, fresh], axis=1)
        keys, queries = self.positions(Reads(every, seen, region, index, own, marks.cut))
        return Table(jnp.where(seen, every, -1), keys, queries)

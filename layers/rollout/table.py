"""What a pass of a rollout reads: frames, and where they and the queries stand in time."""

from __future__ import annotations

from typing import NamedTuple

from ..streaming import Array


class Table(NamedTuple):
    """C slots of a memory and then the F frames of the pass itself.

    Attributes:
      frames: [B, C + F] int32, the number of each frame that is read, -1 where none is.
      keys: [B, C + F] int32, places in time.
      queries: [B, F] int32, places in time of the frames that read.
    """

    frames: Array
    keys: Array
    queries: Array

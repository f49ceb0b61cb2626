"""What every depth model answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class Depth(Output):
    """A map of depth for every frame. B streams, T frames of H x W pixels.

    Where ``metric`` is set, ``depth`` is the distance along the optical axis in metres. Elsewhere
    it is an inverse depth of unknown scale and shift: the larger, the nearer. All of a frame that
    never came is zeros.
    """

    depth: Array  # [B, T, H, W] float32
    metric: Array  # [B, T] bool
    valid: Array  # [B, T] bool: the frame came
    confidence: Array | None = None  # [B, T] 0 to 1: it agrees with the frames before it

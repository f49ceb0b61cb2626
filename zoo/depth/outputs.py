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


@exportable
@flax.struct.dataclass
class Geometry(Output):
    """Depth, points and cameras of frames, in one world of unknown scale. B streams, T frames.

    ``depth`` is a distance along the optical axis, ``points`` are in the coordinates of the first
    frame's camera. A pixel's certainty is above 1; infinite means sure. All of a frame that never
    came is zeros.
    """

    depth: Array  # [B, T, H, W] float32, above 0
    certainty: Array  # [B, T, H, W] of the depth
    points: Array  # [B, T, H, W, 3]
    points_certainty: Array  # [B, T, H, W]
    camera: Array  # [B, T, 9] see ``layers.geometry.pose_code``
    metric: Array  # [B, T] bool, False: the scale is unknown
    valid: Array  # [B, T] bool: the frame came
    confidence: Array  # [B, T] 0 to 1: mean of 1 - 1 / certainty over the frame

"""What every matting model answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class Matte(Output):
    """How much of each pixel is a person. B streams, T frames of H x W cells.

    All of a frame that never came is zeros.
    """

    alpha: Array  # [B, T, H, W] float32, 0 to 1
    valid: Array  # [B, T] bool: the frame came

"""What every detector answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class Detections(Output):
    """Objects found in frames, best first. B streams, T frames, N slots.

    Empty slots, and all of a frame that never came, are zeros.
    """

    boxes: Array  # [B, T, N, 4] x1, y1, x2, y2 as fractions of the frame's width and height
    scores: Array  # [B, T, N] probability
    labels: Array  # [B, T, N] int32, index into the card's classes
    valid: Array  # [B, T, N] bool: this slot holds an object
    taps: Tapped | None = None  # intermediates asked for by name

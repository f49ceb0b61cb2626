"""What every multi-object tracker answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class Tracks(Output):
    """Objects with an identity. B streams, T frames, S slots, K detections of a frame.

    A track keeps its slot for as long as it lives. Slots where ``valid`` is False are zeros, and
    so is all of a frame that never came.
    """

    boxes: Array  # [B, T, S, 4] x1, y1, x2, y2 in the unit of the detections, filtered
    ids: Array  # [B, T, S] int32 from 1, never given again; 0 where there is no track
    scores: Array  # [B, T, S] of the last detection
    labels: Array  # [B, T, S] int32, the class that most of the score was for
    valid: Array  # [B, T, S] bool: confirmed, and seen now or at most ``coast`` frames ago
    seen: Array  # [B, T, S] bool: ``valid`` and detected in this frame
    detection_ids: Array  # [B, T, K] int32, the track of each detection, 0 for none
    # [B, T, S] int32, whose slot it is: its id also while it is lost and may come back; 0 for
    # nobody's, and for a track that has no id yet
    held: Array | None = None

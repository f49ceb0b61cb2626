"""What every pose model answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ..outputs import Output

Array = jax.Array
POINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip",
    "left knee", "right knee", "left ankle", "right ankle",
)  # fmt: skip
# Which points a line joins, by number: of POINTS, of the palm's seven and of a hand's 21.
BONES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12),
    (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip

PALM_BONES = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 5), (5, 6))
HAND_BONES = tuple(
    (0 if i == 1 else finger + i - 1, finger + i)
    for finger in (0, 4, 8, 12, 16)
    for i in (1, 2, 3, 4)
)

# A body's 33 points, as ``blaze`` names them: shoulders and hips, arms with three points of a hand,
# legs with heel and toes, eyes and mouth.
BODY_BONES = (
    (0, 2), (0, 5), (2, 7), (5, 8), (9, 10), (11, 12), (11, 23), (12, 24), (23, 24),
    *((a, a + 2) for a in (11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25, 26, 27, 28, 29, 30)),
    (15, 19), (16, 20), (15, 21), (16, 22), (27, 31), (28, 32),
)  # fmt: skip


def bones(points: int) -> tuple[tuple[int, int], ...]:
    """The lines of a pose of so many points; none where that is not known."""
    return {17: BONES, 7: PALM_BONES, 21: HAND_BONES, 33: BODY_BONES}.get(points, ())


@exportable
@flax.struct.dataclass
class Pose(Output):
    """Persons and their P = 17 points of COCO (``POINTS``), or other points of them or of hands,
    which the model names. B streams, T frames, N slots.

    Empty slots, and all of a frame that never came, are zeros.
    """

    keypoints: Array  # [B, T, N, P, 3] x, y as fractions of the frame's width and height; score
    boxes: Array  # [B, T, N, 4] x1, y1, x2, y2 as fractions of the frame's width and height
    scores: Array  # [B, T, N] of the person
    valid: Array  # [B, T, N] bool: this slot holds a person
    taps: Tapped | None = None  # intermediates asked for by name

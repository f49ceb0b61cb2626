"""Which frames of a camera matter most when not all can be served: those on which much changes.

Source: the idea of Yao et al., "TimeChat-Online" (arXiv 2504.17343), section 3.3, that a frame of
which little could be dropped marks a transition, on pixels instead of tokens: what of a frame is as
in the one before it could be dropped.
"""

from __future__ import annotations

import math

import numpy as np

from .change import ChangeTrigger

CELLS = 12, 16  # rows and columns over a picture
SAMPLES = 4  # pixels of a cell that are looked at, each way
STEP = 8.0  # brightness of 0 to 255 by which a cell's mean must change to count


class SceneChange:
    """Marks frames of one stream, one after the other: ``mark = SceneChange(); mark(image)``.

    A frame is marked if at least ``least`` of its cells changed in brightness since the frame
    before, and if it is among the ``share`` of frames so far on which most changed: in a busy scene
    it takes more than in a quiet one, and no more than about that share is ever marked for long.

    Attributes:
      least: share of the 192 cells.
      share: of the frames.
      warm: frames before the first mark.
    """

    def __init__(self, least: float = 0.03, share: float = 0.1, warm: int = 10):
        if not 0 < least <= 1:
            raise ValueError(f"least={least}: a share of the cells above 0, up to 1")
        self.least = least
        self._trigger = ChangeTrigger(share, warm)
        self._state = self._trigger.begin()
        self._before: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> bool:
        """Whether this frame, uint8 [h, w, 3], is an event."""
        cells = brightness(image)
        before, self._before = self._before, cells
        if before is None or before.shape != cells.shape:
            return False
        changed = float((np.abs(cells - before) >= STEP).mean())
        self._state, rare = self._trigger(self._state, 1.0 - changed)
        return rare and changed >= self.least


def brightness(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> mean brightness of cells, float32 [12, 16] or fewer of a tiny picture."""
    height, width = image.shape[:2]
    rows, columns = min(CELLS[0], height), min(CELLS[1], width)
    step = max(1, math.isqrt(height * width // (rows * columns * SAMPLES**2)))
    small = image[::step, ::step].mean(axis=2, dtype=np.float32)
    small = np.add.reduceat(small, _edges(small.shape[0], rows), axis=0)
    small = np.add.reduceat(small, _edges(small.shape[1], columns), axis=1)
    counts = [np.diff([*_edges(n, c), n]) for n, c in
              zip(image[::step, ::step].shape[:2], (rows, columns), strict=True)]  # fmt: skip
    return small / np.outer(*counts)


def _edges(size: int, parts: int) -> list[int]:
    return [size * k // min(parts, size) for k in range(min(parts, size))]

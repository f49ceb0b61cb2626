"""How many frame intervals have passed since a stream's last frame: what a skipped frame costs.

Models that take ``elapsed`` (their ``inputs`` say so) move on by as many frames at once, so that
dropping frames under load does not slow down what moves in the picture.
"""

from __future__ import annotations

import math

MOST = 1 << 20  # intervals; a camera that comes back after days says no more


class Elapsed:
    """Frame intervals between the frames of one stream that reach the model.

    Args:
      fps: frames per second of the stream when none is skipped; None: one interval always.
    """

    def __init__(self, fps: float | None):
        if fps is not None and not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps={fps}: give frames per second above 0")
        self.fps = fps
        self._last: float | None = None

    def __call__(self, time: float | None) -> int:
        """Intervals since the frame before, at least 1; of the first frame, and of one whose time
        is not known or not later, 1.

        Args:
          time: seconds of capture.
        """
        if self.fps is None or time is None or not math.isfinite(time):
            return 1
        last, self._last = self._last, time
        if last is None or time <= last:
            return 1
        return max(1, min(MOST, round((time - last) * self.fps)))

    def reset(self) -> None:
        """The next frame is the first one."""
        self._last = None

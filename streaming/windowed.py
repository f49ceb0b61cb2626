"""A model of windows as a stream: frames go in one by one, joined depth and cameras come out.

A window is ``size`` frames, of which ``overlap`` are the last ones of the window before. Frame t is
final ``size - 1`` frames later at most; that is the latency.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np

from ..layers.geometry import pose_code
from ..layers.geometry.pinhole import unproject
from ..layers.geometry.sim3 import rigid_inverse
from ..layers.geometry.window_align import AlignState, Window, init_state, join
from ..zoo.depth.outputs import Geometry

Model = Callable[[np.ndarray], tuple[Window, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Placed:
    """A frame in the world of the first window.

    Attributes:
      index: of the frame.
      depth: [h, w], infinite where nothing is.
      pose: [4, 4] camera to world.
      focal: [2] pixels of a map of this size.
      scale: of its window against its own world.
      agrees: 0 to 1, how well its window fits the one before; 1 for the first.
    """

    index: int
    depth: np.ndarray
    pose: np.ndarray
    focal: np.ndarray
    scale: float
    agrees: float


class WindowAlign:
    """Joins the windows of a model.

        align = WindowAlign(model, size=20, overlap=5)
        for frame in frames:
            for placed in align.push(frame):
                ...
        rest = align.flush()

    A model of pairs, such as DUSt3R, has windows of 2 frames of which 1 is shared: the frame before
    and the one that came. :func:`window_of` reads what VGGT, Pi3 and DUSt3R say.

    Args:
      model: frames [T, H, W, 3] -> (their :class:`Window`, focal lengths [2] in pixels of its
        maps); those of the first window are kept for all.
      size, overlap: frames of a window, and of two windows in common.
      layers: of depth with scales of their own; 1 for none.

    Raises:
      ValueError: an overlap that is no part of a window.
    """

    def __init__(self, model: Model, size: int = 20, overlap: int = 5, layers: int = 8):
        if not 1 <= overlap < size:
            raise ValueError(
                f"overlap {overlap} of windows of {size} frames: at least 1, and fewer"
            )
        self.model, self.size, self.overlap, self.layers = model, size, overlap, layers
        self.latency = size - 1
        self.log_scale = 0.0  # sum over windows: how far the scale has drifted
        self._frames: deque[np.ndarray] = deque()
        self._state: AlignState | None = None
        self._focal: np.ndarray | None = None
        self._next = 0  # the first frame that was not answered

    def push(self, frame: np.ndarray) -> list[Placed]:
        """A frame comes; frames that became final.

        Raises:
          ValueError: a frame of another size than those before.
        """
        if self._frames and self._frames[0].shape != frame.shape:
            raise ValueError(
                f"a frame of {frame.shape[:2]} after frames of {self._frames[0].shape[:2]}: begin"
                " another WindowAlign for another size"
            )
        self._frames.append(frame)
        return self._run() if len(self._frames) == self.size else []

    def flush(self) -> list[Placed]:
        """The stream ends: the frames that still wait."""
        waiting = len(self._frames) - (self.overlap if self._state is not None else 0)
        return self._run() if waiting > 0 else []

    def _run(self) -> list[Placed]:
        window, focal = self.model(np.stack(self._frames))
        height, width = window.depth.shape[1:]
        if self._state is None:
            self._state = init_state(self.overlap, height, width)
            self._focal = np.asarray(focal, np.float32)
        assert self._focal is not None
        first = int(self._state.windows) == 0
        if len(self._frames) <= self.overlap:  # too short to leave a state behind: the only window
            depth, poses, scale, agrees = np.asarray(window.depth), window.poses, 1.0, 1.0
        else:
            self._state, found = join(self._state, window, self._focal, layers=self.layers)
            depth, poses = np.asarray(found.depth), found.poses
            scale, agrees = float(found.scale), 1.0 if first else float(found.agrees)
        self.log_scale += float(np.log(scale))
        new = 0 if first else self.overlap
        placed = [
            Placed(self._next + k - new, depth[k], np.asarray(poses[k]), self._focal, scale, agrees)
            for k in range(new, len(self._frames))
        ]
        self._next += len(placed)
        self._frames = deque(list(self._frames)[-self.overlap :])
        return placed


def window_of(out: Geometry) -> tuple[Window, np.ndarray]:
    """What a model said of one clip [1, T, ...], as :class:`WindowAlign` wants it."""
    size = out.depth.shape[-2], out.depth.shape[-1]
    extrinsic, focal = pose_code.decode(out.camera[0], size)
    poses = np.asarray(rigid_inverse(extrinsic))
    return Window(np.asarray(out.depth[0]), np.asarray(out.certainty[0]), poses), np.asarray(
        focal[0]
    )


def to_world(placed: Placed, step: int = 1) -> np.ndarray:
    """The points of a frame in the world, [N, 3], every ``step`` pixels, without the sky."""
    points = np.asarray(unproject(placed.depth[None], placed.focal[None]))[0, ::step, ::step]
    points = points[np.isfinite(placed.depth[::step, ::step])].reshape(-1, 3)
    return points @ placed.pose[:3, :3].T + placed.pose[:3, 3]

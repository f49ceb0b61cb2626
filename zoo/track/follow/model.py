"""A pipeline as one model: a detector and a tracker in one compiled step.

    model, params = streamzoo.load("follow-nano/coco")
    carry = model.init_carry(batch)
    carry, tracks = model.apply(params, carry, frames)       # frames [B, T, H, W, 3]

Its config says what it is made of, and a part is changed as any field is:
``load("follow-nano/coco", tracker={"keep": 60})``.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.gaps import zero_invalid
from ...checks import check_frames
from ...detect.yolox.model import FILL, YOLOX, Maps, YOLOXConfig
from ...ranges import Checked, Share
from ..outputs import Tracks
from ..tracker import BoxTracker, TrackerConfig, TrackState

ROWS, COLUMNS = 9, 16  # cells in which two frames are compared

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FollowConfig(Checked):
    """The parts.

    Attributes:
      detector: its threshold should be that of the tracker's ``low``: the tracker wants to know
        of unsure detections too.
      tracker: without ``features``.
      cut: mean change of brightness, as a share of its range, from which on a frame is another
        shot's and the tracks of the last one are forgotten; 1: never. Measured on 9 x 16 cells:
        cuts changed 0.15 to 0.30, a camera that moves 0.07 at most.
    """

    detector: YOLOXConfig = YOLOXConfig()
    tracker: TrackerConfig = TrackerConfig()
    cut: Share = 0.12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tracker.features:
            raise ValueError(
                f"tracker.features={self.tracker.features}: the detector gives none; give 0"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the detector's input."""
        return self.detector.image_size


@exportable
class FollowState(NamedTuple):
    """The carry."""

    tracks: TrackState
    last: Array  # [B, 9, 16] fp32, brightness of the last frame in 0..255; -1 before the first


class Follow(nn.Module):
    """Objects of every frame with ids that last. Its parameters are those of the detector."""

    config: FollowConfig
    task = "follow"
    latency = 0
    cross_stream = False
    inputs = ("frames", "elapsed")

    def setup(self):
        self.detector = YOLOX(self.config.detector)
        nn.share_scope(self, self.detector)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> FollowState:
        """No tracks in any of ``batch`` streams."""
        del frame_shape
        last = jnp.full((batch, ROWS, COLUMNS), -1.0, jnp.float32)
        return FollowState(BoxTracker(self.config.tracker).init_carry(batch), last)

    def __call__(
        self,
        carry: FollowState,
        frames: Array,
        valid: Array | None = None,
        *,
        elapsed: Array | None = None,
    ) -> tuple[FollowState, Tracks]:
        """Follows the objects of T frames of B streams.

        Args:
          carry: as :meth:`init_carry` or the last call gave it.
          frames: [B, T, H, W, 3] RGB floats as the card says (0 to 255), of any size.
          valid: [B, T] bool, False for frames that never came.
          elapsed: [B, T] int32, frame intervals since the frame before, more than 1 where frames
            were skipped; None is 1.

        Raises:
          ValueError: frames of the wrong shape or type.
        """
        carry, tracks, _ = self.see(carry, frames, valid, elapsed)
        return carry, tracks

    def see(
        self,
        carry: FollowState,
        frames: Array,
        valid: Array | None = None,
        elapsed: Array | None = None,
    ) -> tuple[FollowState, Tracks, Maps]:
        """As :meth:`__call__`, and the maps of the B * T frames, one after the other."""
        check_frames(frames, 1, type(self).__name__)
        batch, steps, *shape = frames.shape
        flat = zero_invalid(frames, valid).reshape(batch * steps, *shape)
        found, maps = self.detector.see(flat)
        found = jax.tree.map(lambda a: a.reshape(batch, steps, *a.shape[1:]), found)
        last, cut = _cuts(self.config.cut, carry.last, brightness(frames), valid)
        tracks, out = BoxTracker(self.config.tracker)(
            carry.tracks, found.boxes, found.scores, found.labels, found.valid,
            valid=valid, cut=cut, elapsed=elapsed,
        )  # fmt: skip
        return FollowState(tracks, last), out, maps


def brightness(frames: Array) -> Array:
    """Frames [B, T, H, W, 3] -> means of 9 x 16 cells [B, T, 9, 16], what is left at the lower and
    right edge left out. Raises ValueError for frames of less than a pixel per cell."""
    batch, steps, height, width, _ = frames.shape
    h, w = height // ROWS, width // COLUMNS
    if not h or not w:
        raise ValueError(f"frames of {height} x {width} pixels: at least {ROWS} x {COLUMNS}")
    cells = frames[:, :, : h * ROWS, : w * COLUMNS].astype(jnp.float32)
    return cells.reshape(batch, steps, ROWS, h, COLUMNS, w, 3).mean((3, 5, 6))


def _cuts(least: float, last: Array, cells: Array, valid: Array | None) -> tuple[Array, Array]:
    """(the last frame's cells [B, 9, 16], True where a frame begins another shot [B, T])."""
    cells = zero_invalid(cells, valid)
    came = jnp.ones(cells.shape[:2], bool) if valid is None else valid

    def frame(last: Array, piece: tuple[Array, Array]) -> tuple[Array, Array]:
        now, came = piece
        # the grey beside a letterboxed picture is none of the shot
        grey = (jnp.abs(now - FILL) < 1e-3) & (jnp.abs(last - FILL) < 1e-3)
        change = jnp.abs(now - last).mean((1, 2)) / (1 - grey.mean((1, 2))).clip(1e-6)
        cut = came & (last[:, 0, 0] >= 0) & (change > 255 * least)
        return jnp.where(came[:, None, None], now, last), cut

    last, cut = jax.lax.scan(frame, last, (cells.swapaxes(0, 1), came.swapaxes(0, 1)))
    return last, cut.swapaxes(0, 1)

"""BlazePose as a stream: 33 points of one person, who is looked for only where nobody was.

Source: Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking" (arXiv 2006.10204);
the networks ``pose_detection`` and ``pose_landmark_full`` of the package ``mediapipe`` 0.10.21
(Apache-2.0) and what that package's graph ``pose_landmark_cpu`` makes of them: two points that the
second network gives beside the body's say where the next frame is cut out, so the detector runs
only before the first frame with a person and after one without.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.ranks import to_rank
from ...checks import check_carry, check_frames
from ...ranges import Checked, Positive, Share
from ..hand.model import cut, placed
from ..outputs import Pose
from .detector import Detector, DetectorConfig
from .landmarks import LandmarkConfig, LandmarkNet, refined
from .smooth import Smoothed, nothing, smooth

Array = jax.Array
BODY_POINTS = (
    "nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye",
    "right eye outer", "left ear", "right ear", "mouth left", "mouth right", "left shoulder",
    "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
    "left little finger", "right little finger", "left index finger", "right index finger",
    "left thumb", "right thumb", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle", "left heel", "right heel", "left toes", "right toes",
)  # fmt: skip
BODY = len(BODY_POINTS)
AHEAD = 2  # points after the body's: where the hips are, and how far the next cut-out reaches
GROW = 1.25  # of the body's size: the side of the cut-out
# hertz: the cutoff of a point at rest, and how it grows with each body size per second
REST = np.asarray([0.05] * BODY + [0.01] * AHEAD, np.float32)
RISE = np.asarray([80.0] * BODY + [10.0] * AHEAD, np.float32)
SEEN = 0.1  # how much a new visibility counts


@dataclasses.dataclass(frozen=True)
class BlazePoseConfig(Checked):
    """The parts and their operating point.

    Attributes:
      detector: of persons, for frames after one without.
      landmarks: of the person's cut-out.
      threshold: the score that a person is in the cut-out must be above it; below, the person is
        lost, and looked for in the next frame.
      smooth: whether the body's points and visibilities are filtered over time. The two points
        that lead the cut-out always are.
      frame_rate: of the frames per second, which the filter's cutoffs refer to.
    """

    detector: DetectorConfig = DetectorConfig()
    landmarks: LandmarkConfig = LandmarkConfig()
    threshold: Share = 0.5
    smooth: bool = True
    frame_rate: Positive = 30.0

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the cut-outs; frames may have any size."""
        return self.landmarks.side, self.landmarks.side


@exportable
@struct.dataclass
class BlazePoseCarry:
    """State of every stream: where the person is looked for, if there was one.

    held: [B] bool; middle: [B, 2] of the square in pixels of the frame; along: [B, 2] its upper
    edge; seen: [B, 33] visibilities, filtered.
    """

    held: Array
    middle: Array
    along: Array
    seen: Array
    smoothed: Smoothed


def square(hips: Array, reach: Array) -> tuple[Array, Array]:
    """Middle of the hips and a point above it as far as the body reaches, both [B, 2] in pixels ->
    the square to cut out: its middle and its upper edge [B, 2]."""
    up = reach - hips
    return hips, 2 * GROW * jnp.stack([-up[:, 1], up[:, 0]], axis=-1)


def crop(frames: Array, middle: Array, along: Array, side: int, outside: str) -> Array:
    """One square of each frame [B, H, W, 3] -> [B, side, side, 3]. A pixel of the cut-out is
    sampled at its corner, as MediaPipe does on a CPU, not at its middle."""
    down = jnp.stack([-along[:, 1], along[:, 0]], axis=-1)
    moved = middle + 0.5 - (along + down) / (2 * side)
    one = lambda f, m, a: cut(f, m[None], a[None], side, outside)[0]
    return jax.vmap(one)(frames, moved, along)


class BlazePose(nn.Module):
    """(carry, frames [B, T, H, W, 3] RGB in 0..1, valid) -> (carry, :class:`Pose` of one slot)."""

    config: BlazePoseConfig
    task = "pose"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        self.detector = Detector(self.config.detector)
        self.landmarks = LandmarkNet(self.config.landmarks)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> BlazePoseCarry:
        """Nobody in any of ``batch`` streams."""
        del frame_shape
        zeros = lambda *shape: jnp.zeros((batch, *shape), jnp.float32)
        held = jnp.zeros(batch, bool)
        return BlazePoseCarry(held, zeros(2), zeros(2), zeros(BODY), nothing(batch, BODY + AHEAD))

    def __call__(
        self, carry: BlazePoseCarry, frames: Array, valid: Array | None = None
    ) -> tuple[BlazePoseCarry, Pose]:
        """The person of T frames of B streams.

        Args:
          carry: of :meth:`init_carry` or the last call.
          frames: [B, T, H, W, 3] RGB in 0..1, of any size, the same in every call.
          valid: [B, T] bool; a frame that is not valid leaves no trace.

        Returns:
          The carry, and :class:`Pose` [B, T, 1, ...]: the 33 ``BODY_POINTS``, whose scores say
          whether they are visible, and the box about them.

        Raises:
          ValueError: frames of the wrong shape or type, or a carry that does not fit.
        """
        check_frames(frames, 1, type(self).__name__)
        check_carry(carry, lambda: self.init_carry(frames.shape[0]))
        came = jnp.ones(frames.shape[:2], bool) if valid is None else valid
        if self.is_initializing():
            self.detector(jnp.zeros((1, *[self.config.detector.side] * 2, 3)))
            self.landmarks.init_all(jnp.zeros((1, *[self.config.landmarks.side] * 2, 3)))
        steps = zero_invalid(frames, valid).swapaxes(0, 1), came.swapaxes(0, 1)
        carry, out = jax.lax.scan(lambda c, x: self._frame(c, *x), carry, steps)
        out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        return carry, jax.tree.map(lambda a: zero_invalid(a, out.valid), out)

    def _frame(
        self, carry: BlazePoseCarry, frames: Array, came: Array
    ) -> tuple[BlazePoseCarry, Pose]:
        """Frames [B, H, W, 3] and whether they came [B]."""
        cfg, (batch, height, width, _) = self.config, frames.shape
        hips, reach, found = self._look(frames, came & ~carry.held)
        pick = lambda kept, new: jnp.where(carry.held[:, None], kept, new)
        middle, along = (
            pick(kept, new)
            for kept, new in zip((carry.middle, carry.along), square(hips, reach), strict=True)
        )
        points, logits, present = self._read(frames, middle, along, came & (carry.held | found))
        there = present > cfg.threshold
        ahead = points[:, BODY:]
        size = 2 * jnp.linalg.norm(ahead[:, 1] - ahead[:, 0], axis=-1)
        smoothed = smooth(carry.smoothed, points, size, cfg.frame_rate, REST, RISE)
        seen = nn.sigmoid(logits)
        again = carry.smoothed.seen[:, None]
        slow = jnp.where(again, SEEN * seen + (1 - SEEN) * carry.seen, seen)
        middle, along = square(smoothed.points[:, BODY], smoothed.points[:, BODY + 1])
        new = BlazePoseCarry(jnp.ones(batch, bool), middle, along, slow, smoothed)
        new = hold(new, self.init_carry(batch), there)
        body = (smoothed.points if cfg.smooth else points)[:, :BODY]
        body = body / to_rank(jnp.asarray([width, height], jnp.float32), body)
        body = jnp.concatenate([body, (slow if cfg.smooth else seen)[..., None]], axis=-1)
        box = jnp.concatenate([body[..., :2].min(axis=1), body[..., :2].max(axis=1)], axis=-1)
        out = Pose(body[:, None], jnp.clip(box, 0, 1)[:, None], present[:, None], there[:, None])
        return hold(new, carry, came), out

    def _look(self, frames: Array, wanted: Array) -> tuple[Array, Array, Array]:
        """The hips and the reach [B, 2] in pixels of the person in whole frames, and whether one
        is there [B]; nobody where none is ``wanted``."""
        batch, height, width, _ = frames.shape
        side = self.config.detector.side
        middle = jnp.broadcast_to(jnp.asarray([[width / 2, height / 2]], jnp.float32), (batch, 2))
        along = jnp.broadcast_to(jnp.asarray([[max(height, width), 0]], jnp.float32), (batch, 2))

        def look(_: tuple[()]) -> tuple[Array, Array, Array]:
            pictures = crop(frames, middle, along, side, "constant") * 2 - 1
            found = self.detector.find(pictures)
            points = placed(middle, along, found.points, side)
            there = found.score > self.config.detector.threshold
            return points[:, 0], points[:, 1], wanted & there

        def nobody(_: tuple[()]) -> tuple[Array, Array, Array]:
            origin = jnp.zeros((batch, 2), jnp.float32)
            return origin, origin, jnp.zeros(batch, bool)

        return jax.lax.cond(jnp.any(wanted), look, nobody, ())

    def _read(
        self, frames: Array, middle: Array, along: Array, wanted: Array
    ) -> tuple[Array, Array, Array]:
        """Points [B, 35, 2] in pixels of the frame, logits [B, 33] that they are visible, and the
        score that a person is there [B], 0 where none is ``wanted``."""
        side, batch = self.config.landmarks.side, frames.shape[0]
        count = BODY + AHEAD

        def read(_: tuple[()]) -> tuple[Array, Array, Array]:
            said = self.landmarks(crop(frames, middle, along, side, "nearest"))
            points = jax.vmap(refined)(said.points[..., :2] / side, said.heat)[:, :count]
            points = placed(middle, along, points * side, side)
            return points, said.points[:, :BODY, 3], jnp.where(wanted, said.present, 0.0)

        def nobody(_: tuple[()]) -> tuple[Array, Array, Array]:
            zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
            return zeros((batch, count, 2)), zeros((batch, BODY)), zeros(batch)

        return jax.lax.cond(jnp.any(wanted), read, nobody, ())

"""A depth model of single frames, made steady: scale and shift follow what stands still.

A model of single frames says each frame's depth in a scale and a shift of its own. Here pixels
whose picture did not change since the frame before vote for the scale and shift that lead the new
map to the old one: closed-form least squares, then twice more with weights that outliers lose. The
scale returns slowly to the model's own, so that errors do not add up over hours.

Source: the least squares are MiDaS's (arXiv 1907.01341, equation 4); carrying them is ours.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.scale_shift import fit_scale_shift
from ....layers.streaming import DType
from ...checks import check_carry, check_frames
from ...ranges import Checked, Share, Weight
from ..model import DepthConfig, DepthViT
from ..nano.model import DepthNano, NanoDepthConfig
from ..outputs import Depth

Array = jax.Array
ROUNDS = 2  # of reweighting


@exportable
class TemporalState(NamedTuple):
    depth: Array  # [B, H, W] fp32, the last map as it was answered
    picture: Array  # [B, H, W] fp32, the last frame in grey, blurred
    scale: Array  # [B] fp32, of the last frame's map
    shift: Array  # [B] fp32
    seen: Array  # [B] int32, 1 after the first frame


@dataclasses.dataclass(frozen=True)
class TemporalDepthConfig(Checked):
    """What is made steady, and how.

    Attributes:
      depth: the model of single frames; the weights are its own, there are no others.
      still: largest change of the blurred grey picture, in units of normalised frames, of a pixel
        that counts as the same one.
      least: share of such pixels that is needed; below it, as after a cut, the frame is believed.
      leak: share of the way back to the model's own scale and shift per frame.
      smooth: share of the old map that a still pixel keeps where both agree.
    """

    depth: DepthConfig | NanoDepthConfig = DepthConfig()
    still: Weight = 0.12
    least: Share = 0.05
    leak: Share = 0.01
    smooth: Share = 0.5
    dtype: DType = "float32"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) the model is meant for."""
        return self.depth.image_size


def blurred(frames: Array) -> Array:
    """The grey of frames [..., H, W, 3], mean over 5 x 5 pixels: noise is no motion."""
    grey = frames.astype(jnp.float32).mean(axis=-1)
    for axis in (-2, -1):
        length = grey.shape[axis]
        at = jnp.arange(length, dtype=jnp.int32)
        parts = [
            jnp.take(grey, jnp.clip(at + step, 0, length - 1), axis=axis)
            for step in (-2, -1, 0, 1, 2)
        ]
        grey = sum(parts[1:], parts[0]) / 5
    return grey


def steady(config: TemporalDepthConfig, state: TemporalState, raw: Array, picture: Array):
    """One frame: raw depth [B, H, W] of the model, its grey picture -> (state, depth, confidence).

    confidence [B]: the share of the frame that stood still and agrees with the frame before, after
    alignment; 0 for a first frame and after a cut.
    """
    flat = lambda a: a.reshape(a.shape[0], -1)
    new, old = flat(raw), flat(state.depth)
    known = (state.seen > 0)[:, None]
    same = (jnp.abs(flat(picture - state.picture)) < config.still) & known
    share = same.mean(axis=1, dtype=jnp.float32)
    weight = same.astype(jnp.float32)
    scale, shift, fits = fit_scale_shift(new, old, weight)
    size = jnp.maximum(jnp.abs(old).mean(axis=1, keepdims=True), 1e-6)
    for _ in range(ROUNDS):  # least absolute deviations: a pixel far off has little to say
        off = jnp.abs(scale[:, None] * new + shift[:, None] - old) / size
        scale, shift, fits = fit_scale_shift(new, old, weight / (off + 1e-2))
    # a scale that is not above 0 turns near and far around: nothing was learned
    use = fits & (share >= config.least) & (scale > 0.1) & (scale < 10.0)
    scale = jnp.where(use, scale, 1.0) ** (1 - config.leak)
    shift = jnp.where(use, shift, 0.0) * (1 - config.leak)
    depth = jnp.maximum(scale[:, None] * new + shift[:, None], 0.0)
    off = jnp.abs(depth - old) / jnp.maximum(jnp.abs(old), 1e-6)
    agrees = same & (off < 0.1) & use[:, None]
    depth = jnp.where(agrees, config.smooth * old + (1 - config.smooth) * depth, depth)
    depth = depth.reshape(raw.shape)
    state = TemporalState(depth, picture, scale, shift, jnp.ones_like(state.seen))
    return state, depth, agrees.mean(axis=1, dtype=jnp.float32)


class TemporalDepth(nn.Module):
    """Depth of streams; latency 0. The carry is one map, one picture, a scale and a shift."""

    config: TemporalDepthConfig
    task = "depth"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        of = self.config.depth
        self.frame = DepthNano(of) if isinstance(of, NanoDepthConfig) else DepthViT(of)
        nn.share_scope(self, self.frame)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> TemporalState:
        """Of ``batch`` streams of frames (height, width), by default of the card's size."""
        size = tuple(frame_shape or self.config.image_size)
        zeros = lambda *shape: jnp.zeros((batch, *shape), jnp.float32)
        seen = jnp.zeros((batch,), jnp.int32)
        return TemporalState(zeros(*size), zeros(*size), zeros() + 1.0, zeros(), seen)

    def __call__(
        self, carry: TemporalState, frames: Array, valid: Array | None = None
    ) -> tuple[TemporalState, Depth]:
        """Depth of T frames of B streams.

        Args:
          carry: of :meth:`init_carry`, for frames of this size.
          frames: [B, T, H, W, 3] RGB floats as the card says.
          valid: [B, T] bool, False for frames that never came.

        Raises:
          ValueError: frames of the wrong shape or type, or of another size than the carry's.
        """
        check_frames(frames, 1, type(self).__name__)
        batch, steps, height, width, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (height, width)))
        frames = zero_invalid(frames, valid)
        found = self.frame.find(frames.reshape(batch * steps, height, width, 3))
        raw = found.depth.reshape(batch, steps, height, width)
        alive = jnp.ones((batch, steps), bool) if valid is None else valid

        def step(state: TemporalState, now):
            raw, picture, alive = now
            new, depth, confidence = steady(self.config, state, raw, picture)
            return hold(new, state, alive), (depth, confidence)

        over = (raw, blurred(frames), alive)
        over = jax.tree.map(lambda a: a.swapaxes(0, 1), over)
        carry, (depth, confidence) = jax.lax.scan(step, carry, over)
        metric = found.metric.reshape(batch, steps)
        out = Depth(depth.swapaxes(0, 1), metric, alive, confidence.swapaxes(0, 1))
        return carry, jax.tree.map(lambda a: zero_invalid(a, valid), out)

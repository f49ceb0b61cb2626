"""The offline teacher as a stream: recompute the whole window at every frame.

This is the baseline that students are measured against. It obeys the same law as they do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.frame_ring import FrameRing, RingState
from ....layers.gaps import zero_invalid
from ....layers.transformer import Taps
from ...checks import check_carry, check_frames
from ...encode.stems import filled, stem_width
from ..outputs import ActionOutput
from .model import VideoMAE, VideoMAEConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class WindowConfig(VideoMAEConfig):
    """A :class:`VideoMAEConfig` and how its clips are cut from the stream.

    Attributes:
      stride: frames between two frames of the window.
      lookahead: frames after the one that is answered for; the answer comes that much later.
    """

    stride: int = 1
    lookahead: int = 0

    def __post_init__(self):
        super().__post_init__()
        span = self.frames * self.stride
        if not 0 <= self.lookahead < span:
            raise ValueError(f"lookahead {self.lookahead}: give 0 to {span - 1}, within the window")

    @property
    def back(self) -> int:
        return self.lookahead // self.stride // self.tubelet


def _move_depth(out: ActionOutput, source: int, target: int) -> ActionOutput:
    """Taps stacked over depth have the batch in front while windows are put together."""
    if not out.taps:
        return out
    return out.replace(
        taps={
            name: jnp.moveaxis(a, source, target) if name in ("hidden", "attention") else a
            for name, a in out.taps.items()
        }
    )


class SlidingWindow(nn.Module):
    """A :class:`VideoMAE` over the last ``config.frames`` frames, at every frame.

    Same parameters as the offline model. Carry: the last frames. The first frame of a stream
    stands in for those before it; with look-ahead, the last one for those after it.
    """

    config: WindowConfig
    task = "action"
    cross_stream = False
    inputs = ("frames",)

    @property
    def latency(self) -> int:
        return self.config.lookahead

    def setup(self):
        self.teacher = VideoMAE(self.config)
        nn.share_scope(self, self.teacher)

    @nn.nowrap
    def _ring(self) -> FrameRing:
        return FrameRing(self.config.frames, self.config.stride)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, ...] | None = None) -> RingState:
        """Carry of ``batch`` streams; frame_shape (h, w) in pixels, default the config's, or
        (h, w, F) of a stem's features, if those are what comes."""
        shape = (*(frame_shape or self.config.image_size), 3)[:3]
        return self._ring().init_carry(batch, shape, jnp.dtype(self.config.dtype))

    def __call__(
        self,
        carry: RingState,
        frames: Array,
        valid: Array | None = None,
        *,
        boxes: Array | None = None,
        box_valid: Array | None = None,
        taps: Taps = (),
        at: Array | None = None,
    ) -> tuple[RingState, ActionOutput]:
        """frames [B, T, H, W, 3] -> (carry, ActionOutput with a T axis).

        With look-ahead the output at step s is for frame s - lookahead, and so must ``boxes``
        [B, T, K, 4] be. ``at`` [n] (default all) are the steps to answer at: a teacher's windows
        cost much, and the outputs are then n long. Raises ValueError for frames or carry of the
        wrong shape or type.
        """
        cfg = self.config
        check_frames(filled(frames, cfg.stem), cfg.patch, type(self).__name__, stem_width(cfg.stem))
        batch, steps = frames.shape[:2]
        check_carry(carry, lambda: self.init_carry(batch, frames.shape[2:]))
        ring, before = self._ring(), carry
        carry, history, dense = ring.push(carry, frames, valid)
        at = jnp.arange(steps) if at is None else at
        # where a frame went when the valid ones were moved to the front
        place = jnp.argsort(dense.order, axis=1)
        if boxes is not None and box_valid is None:
            box_valid = jnp.ones(boxes.shape[:3], bool)
        if self.is_initializing():
            self.teacher(ring.window(history, before, 0))
        weights = {"params": self.teacher.variables["params"]}
        offline = VideoMAE(self.config, parent=None)

        def answer(t: Any) -> ActionOutput:
            def here(a: Any) -> Any:
                return None if a is None else jnp.take(a, t, axis=1)

            clip = ring.window(history, before, here(place))
            out: Any = offline.apply(weights, clip, here(boxes), here(box_valid), taps)
            return _move_depth(out, 0, 1)

        if len(at) == 1:
            out = jax.tree.map(lambda a: a[:, None], answer(at[0]))
        else:  # one window at a time: memory does not grow with the clip
            out = jax.lax.map(answer, at)
            out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        out = jax.tree.map(lambda a: zero_invalid(a, valid if valid is None else valid[:, at]), out)
        return carry, _move_depth(out, 2, 0)

    def flush(self, carry: RingState) -> tuple[RingState, ActionOutput]:
        """The answers for the last ``lookahead`` frames, the last frame standing in."""
        late = self.config.lookahead
        last = jnp.repeat(carry.frames[:, -1:], max(late, 1), axis=1)
        after, out = self(carry, last)
        if late:
            return after, out
        return carry, jax.tree.map(lambda a: a[:, :0], out)  # nothing is due

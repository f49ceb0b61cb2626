"""The offline teacher as a stream: recompute the whole window at every frame.

This is the baseline that students are measured against. It obeys the same law as they do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.frame_ring import FrameRing, RingState
from ...layers.gaps import scatter
from ...layers.vit import Taps
from ..checks import check_carry, check_frames
from .outputs import ActionOutput
from .teacher import VideoMAE, VideoMAEConfig

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
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> RingState:
        """Carry of ``batch`` streams; frame_shape (h, w) in pixels, default the config's."""
        shape = (*(frame_shape or self.config.image_size), 3)
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
    ) -> tuple[RingState, ActionOutput]:
        """frames [B, T, H, W, 3] -> (carry, ActionOutput with a T axis).

        With look-ahead the output at step s is for frame s - lookahead, and so must ``boxes``
        [B, T, K, 4] be. Raises ValueError for frames or carry of the wrong shape or type.
        """
        check_frames(frames, self.config.patch, type(self).__name__)
        batch, steps, height, width, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (height, width)))
        ring, before = self._ring(), carry
        carry, history, dense = ring.push(carry, frames, valid)
        if boxes is not None:
            if box_valid is None:
                box_valid = jnp.ones(boxes.shape[:3], bool)
            boxes, box_valid = (
                jnp.take_along_axis(a, dense.order.reshape(batch, steps, *(1,) * (a.ndim - 2)), 1)
                for a in (boxes, box_valid)
            )
        if self.is_initializing():
            self.teacher(ring.window(history, before, 0))
        weights = {"params": self.teacher.variables["params"]}
        offline = VideoMAE(self.config, parent=None)

        def answer(t: Any) -> ActionOutput:
            at = lambda a: None if a is None else jnp.take(a, t, axis=1)  # noqa: E731
            clip = ring.window(history, before, t)
            out: Any = offline.apply(weights, clip, at(boxes), at(box_valid), taps)
            return _move_depth(out, 0, 1)

        if steps == 1:
            out = jax.tree.map(lambda a: a[:, None], answer(0))
        else:  # one window at a time: memory does not grow with the clip
            out = jax.lax.map(answer, jnp.arange(steps))
            out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        out = jax.tree.map(lambda a: scatter(a, dense, valid), out)
        return carry, _move_depth(out, 2, 0)

    def flush(self, carry: RingState) -> tuple[RingState, ActionOutput]:
        """The answers for the last ``lookahead`` frames, the last frame standing in."""
        last = jnp.repeat(carry.frames[:, -1:], self.config.lookahead, axis=1)
        return self(carry, last)

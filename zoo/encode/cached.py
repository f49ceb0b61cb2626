"""Image encoders as streams: features of every frame at a fraction of the cost.

    encoder, variables = zoo.load("dinov3-s16/lvd1689m")
    live = CachedEncoder(encoder.config, Recompute(budget=0.25, period=8))
    carry = live.init_carry(1)
    carry, out = live.apply(variables, carry, frames)  # frames [B, T, H, W, 3]

The parameters are those of the encoder itself, under the same names. :class:`CachedEncoder` is for
transformers and computes some of a frame's tokens; :class:`FrameMemo` is for any encoder, the
convolutional ones above all, whose cells cannot be computed one by one: it computes a frame or
repeats the last answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.exportable import exportable
from ...layers.gaps import hold, zero_invalid
from ...layers.recompute import Recompute, RecomputeState
from ...layers.transformer import Block
from ..checks import check_carry, check_frames
from .outputs import EncoderOutput
from .vit import ImageViT, ImageViTConfig

Array = jax.Array


class CachedEncoder(nn.Module):
    """A vision transformer over a stream; see :mod:`streamzoo.layers.recompute`.

    Attributes:
      config: of the encoder.
      policy: how many tokens are computed when. A budget of 1 is the plain encoder.
    """

    config: ImageViTConfig
    policy: Recompute = Recompute()
    task = "encode"
    cross_stream = False
    inputs = ("frames",)

    @property
    def latency(self) -> int:
        """Frames until an output is final."""
        return 0

    def setup(self):
        self.body = ImageViT(self.config)
        nn.share_scope(self, self.body)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> RecomputeState:
        """The state of ``batch`` streams that have seen nothing.

        frame_shape: (height, width), by default that of the config.
        """
        cfg = self.config
        height, width = frame_shape or cfg.image_size
        tokens = cfg.prefix + (height // cfg.patch) * (width // cfg.patch)
        dtype = jnp.dtype(cfg.dtype)
        return self.policy.init_carry(batch, cfg.depth, tokens, cfg.dim, dtype)

    def __call__(
        self, carry: RecomputeState, frames: Array, valid: Array | None = None
    ) -> tuple[RecomputeState, EncoderOutput]:
        """Features of the next frames of each stream.

        Args:
          carry: from :meth:`init_carry` for frames of this size, or from the call before.
          frames: [B, T, H, W, 3] floats, normalised as the encoder's card says.
          valid: [B, T] bool, False for frames that never came; their outputs are zero.

        Returns:
          (carry, EncoderOutput with an axis of time: features [B, T, h, w, D], pooled [B, T, D],
          prefix [B, T, P, D]).

        Raises:
          ValueError: frames or carry of the wrong shape or type.
        """
        cfg = self.config
        check_frames(frames, cfg.patch, type(self).__name__)
        batch, steps, height, width, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (height, width)))
        rows, cols = height // cfg.patch, width // cfg.patch
        flat = zero_invalid(frames, valid).reshape(-1, *frames.shape[2:])
        if self.is_initializing():
            self.body(flat)  # makes the parameters
        x = self.body.embed(flat)
        params = self.body.blocks.variables["params"]["layer0"]
        carry, y = self.policy(
            Block(cfg.block(), parent=None),
            params,
            carry,
            x.reshape(batch, steps, *x.shape[1:]),
            valid,
            self.body.angles(rows, cols),
            always=cfg.prefix,
        )
        out = self.body.read(y.reshape(x.shape), rows, cols)
        return carry, _with_time(out, batch, steps, valid)


def _with_time(out: EncoderOutput, batch: int, steps: int, valid: Array | None) -> EncoderOutput:
    """[B * T, ...] -> [B, T, ...], zeros where a frame is invalid."""
    split = lambda a: zero_invalid(a.reshape(batch, steps, *a.shape[1:]), valid)
    return jax.tree.map(split, out)


@exportable
class MemoState(NamedTuple):
    seen: Array  # [B, h, w, 3] the frame that was encoded last, shrunk
    age: Array  # [B] int32 frames since then, at most ``period``; 0: nothing was encoded yet
    out: EncoderOutput  # its features, leaves [B, ...]


class FrameMemo(nn.Module):
    """Any image encoder over a stream: a frame like the last encoded one gets that one's answer.

    Frames are compared as means over squares: a frame is encoded when the mean of any square, in
    any colour, has moved by more than ``threshold``, and at the latest after ``period`` frames.
    Cost is saved only on frames on which no stream of the batch has to be encoded.

    Attributes:
      encoder: a module ``frames [B, H, W, 3] -> EncoderOutput``.
      threshold: in the units of the normalised frames; 0 encodes all but repeated frames.
      period: frames that share one answer at most.
      square: side of the squares in pixels.
    """

    encoder: Any
    threshold: float = 0.1
    period: int = 8
    square: int = 16
    task = "encode"
    cross_stream = False
    inputs = ("frames",)

    def __post_init__(self):
        if self.threshold < 0 or self.period < 1 or self.square < 1:
            raise ValueError(
                f"threshold {self.threshold}, period {self.period}, square {self.square}: "
                "at least 0, 1 and 1"
            )
        super().__post_init__()

    @property
    def latency(self) -> int:
        """Frames until an output is final."""
        return 0

    def setup(self):
        nn.share_scope(self, self.encoder)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> MemoState:
        """The state of ``batch`` streams that have seen nothing; frame_shape: (height, width)."""
        size = frame_shape or self.encoder.config.image_size
        frames = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
        alone = self.encoder.clone(parent=None)
        out = jax.eval_shape(lambda x: alone.init_with_output(jax.random.key(0), x)[0], frames)
        seen = jax.eval_shape(self._shrink, frames)
        zeros = lambda a: jnp.zeros(a.shape, a.dtype)
        return MemoState(zeros(seen), jnp.zeros((batch,), jnp.int32), jax.tree.map(zeros, out))

    @nn.nowrap
    def _shrink(self, frames: Array) -> Array:
        """Means over squares; what is left at the lower and right edge counts in whole squares."""
        side = self.square
        pads = [(0, -n % side) for n in frames.shape[1:3]]
        x = jnp.pad(frames, ((0, 0), *pads, (0, 0)), mode="edge")
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height // side, side, width // side, side, 3)
        return x.mean(axis=(2, 4))

    def __call__(
        self, carry: MemoState, frames: Array, valid: Array | None = None
    ) -> tuple[MemoState, EncoderOutput]:
        """As :meth:`CachedEncoder.__call__`."""
        check_frames(frames, 1, type(self).__name__)
        batch, _, height, width, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (height, width)))
        frames = zero_invalid(frames, valid).astype(jnp.float32)
        if self.is_initializing():
            self.encoder(frames[:, 0])
        variables, alone = self.encoder.variables, self.encoder.clone(parent=None)

        def frame(state, piece):
            x, keep = piece
            small = jax.lax.stop_gradient(self._shrink(x))
            moved = jnp.abs(small - state.seen).max(axis=(1, 2, 3)) > self.threshold
            due = (state.age == 0) | (state.age >= self.period) | moved
            due = due if keep is None else due & keep

            def encode(x):
                return hold(MemoState(small, state.age * 0, alone.apply(variables, x)), state, due)

            state = jax.lax.cond(due.any(), encode, lambda _: state, x)
            ages = state.age + (1 if keep is None else keep.astype(jnp.int32))
            return state._replace(age=ages), state.out

        pieces = (frames.swapaxes(0, 1), None if valid is None else valid.swapaxes(0, 1))
        carry, out = jax.lax.scan(frame, carry, pieces)
        return carry, jax.tree.map(lambda a: zero_invalid(a.swapaxes(0, 1), valid), out)

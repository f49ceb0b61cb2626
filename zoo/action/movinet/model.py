"""MoViNet-Stream: causal (2+1)-D convolutions and running means, a carry of constant size.

Source: Kondratyuk et al., "MoViNets: Mobile Video Networks for Efficient Video Recognition" (arXiv
2103.11511), in the form of its published streaming models A0 to A2 (tensorflow/models,
official/projects/movinet): hard swish, means of the frame and of all frames so far in each
squeeze and excitation. Batch norms are folded. The published graph keeps sums and a count in each
block; here one count serves all, and means take the place of sums.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from ....layers.conv import dense_conv
from ....layers.exportable import exportable
from ....layers.gaps import compact, scatter
from ....layers.ranks import to_rank
from ....layers.running_mean import Count as Counted
from ....layers.running_mean import counted, running_mean
from ....layers.streaming import Array, DType
from ...checks import check_carry, check_frames
from ...encode.efficientnet.model import conv, depthwise
from ...ranges import Checked, Count, Size
from ..outputs import ActionOutput

SIXTH = 0.16667  # of the published hard sigmoid, which is not quite a sixth


class Stage(NamedTuple):
    """Blocks of one width; the first halves the map where ``stride`` is 2.

    ``expands``: channels inside of each block. ``kernels``: of each, over time and over space.
    """

    width: int
    expands: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...]
    stride: int = 2


# (frames, pixels) of a kernel
K13, K15, K33, K53 = (1, 3), (1, 5), (3, 3), (5, 3)


@dataclasses.dataclass(frozen=True)
class MoViNetConfig(Checked):
    """Shapes of a MoViNet-Stream; the defaults are A0's.

    Attributes:
      image_size: of the frames; others are taken as well.
      stem: channels of the first convolution.
      stages: of the body.
      top: channels of the last map.
      hidden: width of the layer before the classifier.
      dtype: compute type; parameters, means and answers are fp32.
    """

    image_size: Size = (172, 172)
    stem: Count = 8
    stages: tuple[Stage, ...] = (
        Stage(8, (24,), (K15,)),
        Stage(32, (80, 80, 80), (K33, K33, K33)),
        Stage(56, (184, 112, 184), (K53, K33, K33)),
        Stage(56, (184, 184, 184, 184), (K53, K33, K33, K33), 1),
        Stage(104, (384, 280, 280, 344), (K53, K15, K15, K15)),
    )
    top: Count = 480
    hidden: Count = 2048
    num_classes: Count = 600
    dtype: DType = "float32"

    def __post_init__(self):
        super().__post_init__()
        # read from JSON they are plain tuples
        object.__setattr__(self, "stages", tuple(Stage(*stage) for stage in self.stages))
        for stage in self.stages:
            if len(stage.expands) != len(stage.kernels):
                raise ValueError(f"{stage}: as many kernels as widths inside")


@exportable
class MoViNetState(NamedTuple):
    """What a stream remembers. Blocks that do not look back have no tail."""

    tails: tuple[Array, ...]  # [B, k - 1, h, w, C] the last frames before each kernel over time
    means: tuple[Array, ...]  # [B, C] fp32, of all frames so far: of each block, and of the top
    seen: Array  # [B] int32, frames so far


def squeezed(inside: int) -> int:
    """Width of a squeeze and excitation: half of ``inside`` as a multiple of 8."""
    width = max(8, (inside // 2 + 4) // 8 * 8)
    return width + 8 if width < 0.45 * inside else width


def hard_swish(x: Array) -> Array:
    return x * jnp.clip(x + 3, 0, 6) * (1 / 6)


class Block(nn.Module):
    """Widen, filter over space, filter over time, weigh the channels, narrow; plus what came in."""

    inside: int  # channels that come
    middle: int
    width: int
    kernel: tuple[int, int]  # frames, pixels
    stride: int

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        frames, side = self.kernel

        def weights(name: str, *shape: int) -> tuple[Array, Array]:
            return (
                self.param(f"{name}_kernel", init, shape),
                self.param(f"{name}_bias", zeros, shape[-1:]),
            )

        middle, narrow = self.middle, squeezed(self.middle)
        self.expand = weights("expand", 1, 1, self.inside, middle)
        self.depth = weights("depth", side, side, 1, middle)
        if frames > 1:
            self.time = weights("time", frames, middle)
        self.squeeze = weights("squeeze", 2 * middle, narrow)
        self.excite = weights("excite", narrow, middle)
        self.project = weights("project", 1, 1, middle, self.width)
        if self.stride != 1 or self.inside != self.width:
            self.skip = weights("skip", 1, 1, self.inside, self.width)
        # ReZero (arXiv 2003.04887): every block begins as nothing
        self.scale = self.param("scale", zeros, ())

    def __call__(
        self, x: Array, tail: Array | None, mean: Array, count: Counted, fresh: Array | None
    ) -> tuple[Array, Array | None, Array]:
        """x [B, T, h, w, C] -> (y, new tail, new mean)."""
        batch, steps = x.shape[:2]
        flat = x.reshape(batch * steps, *x.shape[2:])
        y = hard_swish(conv(flat, *self.expand, 1))
        y = hard_swish(depthwise(y, *self.depth, self.stride))
        if tail is not None:
            y, tail = dense_conv(y.reshape(batch, steps, *y.shape[1:]), tail, *self.time, fresh)
            y = hard_swish(y).reshape(batch * steps, *y.shape[2:])
        here = y.astype(jnp.float32).mean(axis=(1, 2)).reshape(batch, steps, -1)
        mean, so_far = running_mean(mean, here, count, fresh)
        seen = jnp.concatenate([so_far, here], axis=-1).astype(y.dtype)
        gate = _dense(hard_swish(_dense(seen, *self.squeeze)), *self.excite)
        gate = jnp.clip(gate + 3, 0, 6) * jnp.asarray(SIXTH, y.dtype)
        y = y * gate.reshape(batch * steps, 1, 1, -1)
        y = conv(y, *self.project, 1) * self.scale.astype(y.dtype)
        if self.stride != 1:
            flat = nn.avg_pool(flat, (3, 3), (2, 2), "SAME", count_include_pad=False)
        if self.stride != 1 or self.inside != self.width:
            flat = conv(flat, *self.skip, 1)
        y = y + flat
        return y.reshape(batch, steps, *y.shape[1:]), tail, mean


def _dense(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel.astype(x.dtype) + to_rank(bias.astype(x.dtype), x)


class MoViNet(nn.Module):
    """Classes of everything a stream has shown so far, after every frame."""

    config: MoViNetConfig
    task = "action"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        cfg = self.config
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.stem_kernel = self.param("stem_kernel", init, (3, 3, 3, cfg.stem))
        self.stem_bias = self.param("stem_bias", zeros, (cfg.stem,))
        blocks, inside = [], cfg.stem
        for stage in cfg.stages:
            for i, (middle, kernel) in enumerate(zip(stage.expands, stage.kernels, strict=True)):
                stride = stage.stride if i == 0 else 1
                blocks.append(Block(inside, middle, stage.width, kernel, stride))
                inside = stage.width
        self.blocks = blocks
        self.top_kernel = self.param("top_kernel", init, (1, 1, inside, cfg.top))
        self.top_bias = self.param("top_bias", zeros, (cfg.top,))
        self.hidden = nn.Dense(cfg.hidden, dtype=jnp.float32)
        self.classes = nn.Dense(cfg.num_classes, dtype=jnp.float32)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> MoViNetState:
        """The state of ``batch`` streams that have seen nothing; frames (height, width)."""
        cfg = self.config
        height, width = (-(-n // 2) for n in frame_shape or cfg.image_size)
        tails, means = [], []
        for stage in cfg.stages:
            height, width = (-(-n // stage.stride) for n in (height, width))
            for middle, (frames, _) in zip(stage.expands, stage.kernels, strict=True):
                if frames > 1:
                    shape = (batch, frames - 1, height, width, middle)
                    tails.append(jnp.zeros(shape, cfg.dtype))
                means.append(jnp.zeros((batch, middle), jnp.float32))
        means.append(jnp.zeros((batch, cfg.top), jnp.float32))
        return MoViNetState(tuple(tails), tuple(means), jnp.zeros((batch,), jnp.int32))

    def __call__(
        self, carry: MoViNetState, frames: Array, valid: Array | None = None
    ) -> tuple[MoViNetState, ActionOutput]:
        """Reads T frames of B streams.

        Args:
          carry: of :meth:`init_carry`, for frames of this size.
          frames: [B, T, H, W, 3] RGB in 0..1, as the card says.
          valid: [B, T] bool, False for frames that never came.

        Returns:
          (carry, ``ActionOutput`` with ``logits`` [B, T, C]).

        Raises:
          ValueError: frames or carry of the wrong shape or type.
        """
        check_frames(frames, 1, type(self).__name__)
        batch, steps, *size, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (size[0], size[1])))
        dense = compact(frames.astype(self.config.dtype), valid)
        fresh = None if valid is None else dense.fresh
        count = counted(carry.seen, steps, fresh)
        x = dense.x.reshape(batch * steps, *size, 3)
        x = hard_swish(conv(x, self.stem_kernel, self.stem_bias, 2))
        x = x.reshape(batch, steps, *x.shape[1:])
        tails, means, left = [], [], iter(carry.tails)
        for block, mean in zip(self.blocks, carry.means, strict=False):
            tail = next(left) if block.kernel[0] > 1 else None
            x, tail, mean = block(x, tail, mean, count, fresh)
            tails += [] if tail is None else [tail]
            means.append(mean)
        x = x.reshape(batch * steps, *x.shape[2:])
        x = hard_swish(conv(x, self.top_kernel, self.top_bias, 1)).astype(jnp.float32)
        x = x.mean(axis=(1, 2)).reshape(batch, steps, -1)
        mean, x = running_mean(carry.means[-1], x, count, fresh)
        logits = self.classes(nn.silu(self.hidden(x)))
        state = MoViNetState(tuple(tails), (*means, mean), count.after)
        return state, ActionOutput(logits=scatter(logits, dense, valid))

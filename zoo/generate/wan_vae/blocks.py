"""Blocks of Wan's video autoencoder over chunks of frames, with the frames before in tails.

The first chunk of a stream is one frame. It stands last in a chunk of the usual size; what stands
before it is zeros at every convolution, which is what a causal convolution pads.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from ....layers.kernels.attention import attention
from ....layers.ranks import to_rank
from ....layers.streaming import Array, DType
from ....layers.video_conv import CausalConv3d, FrameConv, twice


class Stage(enum.Enum):
    """The two halves of an autoencoder."""

    ENCODE = "encoder"
    DECODE = "decoder"


class Tails:
    """The last frames that each convolution saw, by the convolution's name."""

    def __init__(self, before: Mapping[str, Array], first: Array):
        self.before, self.first, self.after = before, first, {}

    def conv(self, name: str, module: CausalConv3d, x: Array) -> Array:
        """Applies a convolution to a chunk, of which a first one has its last frame only."""
        self.after[name], y = module(self.before[name], self.only_last(x))
        return y

    def only_last(self, x: Array) -> Array:
        """x [B, n, ...], zeros but for the last frame of streams that begin."""
        frames = x.shape[1]
        here = ~self.first[:, None] | (jnp.arange(frames) == frames - 1)[None]
        return jnp.where(here.reshape(*here.shape, *(1,) * (x.ndim - 2)), x, 0)

    def where_first(self, first: Array, others: Array) -> Array:
        """Of streams that begin the one, of the others the other."""
        return jnp.where(self.first.reshape(-1, *(1,) * (others.ndim - 1)), first, others)


class Norm(nn.Module):
    """x over its length, times the root of the channels and a learned factor."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.square(wide).sum(axis=-1, keepdims=True))
        y = wide / jnp.maximum(length, 1e-12) * x.shape[-1] ** 0.5
        return (y * to_rank(gamma, y)).astype(x.dtype)


class Residual(nn.Module):
    """Two convolutions over frames and a shortcut."""

    features: int
    dtype: DType

    @nn.compact
    def __call__(self, tails: Tails, at: str, x: Array) -> Array:
        wide = x.shape[-1] != self.features
        short = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x) if wide else x
        for i in (1, 2):
            x = nn.silu(Norm(name=f"norm{i}")(x))
            conv = CausalConv3d(self.features, dtype=self.dtype, name=f"conv{i}")
            x = tails.conv(f"{at}/conv{i}", conv, x)
        return x + short


class PictureAttention(nn.Module):
    """One head over the cells of each frame."""

    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        *front, height, width, channels = x.shape
        cells = Norm(name="norm")(x).reshape(-1, height * width, 1, channels)
        q, k, v = jnp.split(nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(cells), 3, axis=-1)
        y = nn.Dense(channels, dtype=self.dtype, name="out")(attention(q, k, v))
        return x + y.reshape(*front, height, width, channels)


class Middle(nn.Module):
    """Residual, attention, residual."""

    features: int
    dtype: DType

    @nn.compact
    def __call__(self, tails: Tails, at: str, x: Array) -> Array:
        x = Residual(self.features, self.dtype, name="first")(tails, f"{at}/first", x)
        x = PictureAttention(self.dtype, name="attention")(x)
        return Residual(self.features, self.dtype, name="second")(tails, f"{at}/second", x)


class Up(nn.Module):
    """Twice the height and width with half the channels, and twice the frames if ``over_time``.

    The first frame of a stream stays one, and what follows does not see it.
    """

    over_time: bool
    dtype: DType

    @nn.compact
    def __call__(self, tails: Tails, at: str, x: Array) -> Array:
        channels = x.shape[-1]
        if self.over_time:
            time = CausalConv3d(2 * channels, (3, 1, 1), dtype=self.dtype, name="time")
            seen = tails.where_first(jnp.zeros_like(x), x)
            tails.after[f"{at}/time"], y = time(tails.before[f"{at}/time"], seen)
            y = y.reshape(*y.shape[:-1], 2, channels)
            y = jnp.moveaxis(y, -2, 2).reshape(x.shape[0], -1, *x.shape[2:])
            x = tails.where_first(jnp.concatenate([jnp.zeros_like(x), x], axis=1), y)
        batch, frames = x.shape[:2]
        x = twice(x.reshape(-1, *x.shape[2:]))
        x = FrameConv(channels // 2, dtype=self.dtype, name="picture")(x)
        return x.reshape(batch, frames, *x.shape[1:])


class Down(nn.Module):
    """Half the height and width, and half the frames if ``over_time``; the first stays one."""

    over_time: bool
    dtype: DType

    @nn.compact
    def __call__(self, tails: Tails, at: str, x: Array) -> Array:
        batch, frames, *_, channels = x.shape
        conv = FrameConv(channels, 3, 2, ((0, 1), (0, 1)), dtype=self.dtype, name="picture")
        x = conv(x.reshape(-1, *x.shape[2:]))
        x = x.reshape(batch, frames, *x.shape[1:])
        if not self.over_time:
            return x
        time = CausalConv3d(channels, (3, 1, 1), 2, tail=1, dtype=self.dtype, name="time")
        tails.after[f"{at}/time"], y = time(tails.before[f"{at}/time"], tails.only_last(x))
        return tails.where_first(x[:, frames // 2 :], y)


class Downs(nn.Module):
    """The encoder: a chunk of frames [B, 4, H, W, 3] -> [B, 1, h, w, out]."""

    dim: int
    mult: tuple[int, ...]
    blocks: int
    over_time: tuple[bool, ...]
    dtype: DType
    out: int

    @nn.compact
    def __call__(self, tails: Tails, x: Array) -> Array:
        conv = lambda features, name: CausalConv3d(features, dtype=self.dtype, name=name)
        x = tails.conv("in", conv(self.dim, "conv_in"), x)
        for level, times in enumerate(self.mult):
            for i in range(self.blocks):
                name = f"level{level}_{i}"
                x = Residual(self.dim * times, self.dtype, name=name)(tails, name, x)
            if level < len(self.over_time):
                name = f"down{level}"
                x = Down(self.over_time[level], self.dtype, name=name)(tails, name, x)
        x = Middle(self.dim * self.mult[-1], self.dtype, name="middle")(tails, "middle", x)
        x = nn.silu(Norm(name="norm")(x))
        return tails.conv("out", conv(self.out, "conv_out"), x)


class Ups(nn.Module):
    """The decoder: a latent [B, 1, h, w, C] -> frames [B, 4, H, W, 3]."""

    dim: int
    mult: tuple[int, ...]
    blocks: int
    over_time: tuple[bool, ...]
    dtype: DType

    @nn.compact
    def __call__(self, tails: Tails, x: Array) -> Array:
        conv = lambda features, name: CausalConv3d(features, dtype=self.dtype, name=name)
        wide = self.dim * self.mult[-1]
        x = tails.conv("in", conv(wide, "conv_in"), x)
        x = Middle(wide, self.dtype, name="middle")(tails, "middle", x)
        for level, times in enumerate(reversed(self.mult)):
            for i in range(self.blocks + 1):
                name = f"level{level}_{i}"
                x = Residual(self.dim * times, self.dtype, name=name)(tails, name, x)
            if level < len(self.over_time):
                name, over_time = f"up{level}", self.over_time[::-1][level]
                x = Up(over_time, self.dtype, name=name)(tails, name, x)
        x = nn.silu(Norm(name="norm")(x))
        return tails.conv("out", conv(3, "conv_out"), x)


def tail_shapes(
    stage: Stage,
    dim: int,
    mult: tuple[int, ...],
    blocks: int,
    over_time: tuple[bool, ...],
    latent: int,
) -> dict[str, tuple[int, int, int]]:
    """Of every convolution over time, by name: (frames kept, pixels a side of a cell, channels)."""
    shapes: dict[str, tuple[int, int, int]] = {}

    def residual(at: str, shrink: int, given: int, made: int) -> None:
        shapes[f"{at}/conv1"], shapes[f"{at}/conv2"] = (2, shrink, given), (2, shrink, made)

    def middle(shrink: int, wide: int) -> None:
        residual("middle/first", shrink, wide, wide)
        residual("middle/second", shrink, wide, wide)

    steps, wide = len(over_time), dim * mult[-1]
    if stage is Stage.ENCODE:
        shapes["in"], given = (2, 1, 3), dim
        for level, times in enumerate(mult):
            for i in range(blocks):
                residual(f"level{level}_{i}", 2**level, given, dim * times)
                given = dim * times
            if level < steps and over_time[level]:
                shapes[f"down{level}/time"] = (1, 2 ** (level + 1), given)
        middle(2**steps, wide)
        shapes["out"] = (2, 2**steps, wide)
        return shapes
    shapes["in"] = (2, 2**steps, latent)
    middle(2**steps, wide)
    given = wide
    for level, times in enumerate(reversed(mult)):
        shrink = 2 ** (steps - level)
        for i in range(blocks + 1):
            residual(f"level{level}_{i}", shrink, given, dim * times)
            given = dim * times
        if level < steps and over_time[::-1][level]:
            shapes[f"up{level}/time"] = (2, shrink, given)
        given = given // 2 if level < steps else given
    shapes["out"] = (2, 1, dim * mult[0])
    return shapes

"""Blocks of the trackers that came from XMem: maps of an image meet maps of its objects.

Source: hkchengrex/XMem, ``model/modules.py`` and ``model/cbam.py`` (Woo et al., CBAM, arXiv
1807.06521); hkchengrex/Tracking-Anything-with-DEVA.

Axis letters: B streams, O objects, M = B * O rows, h x w cells.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.streaming import DType

Array = jax.Array
NARROW = 16  # of a channel gate's middle
LEAST = 1e-7  # probability, as in the authors' code


def conv(width: int, size: int, dtype: DType) -> nn.Conv:
    """A convolution of ``size`` x ``size`` that keeps height and width."""
    return nn.Conv(width, (size, size), padding=size // 2, dtype=dtype)


def grown(x: Array, times: int) -> Array:
    """[M, h, w, C] -> [M, times h, times w, C], bilinear."""
    m, h, w, c = x.shape
    return jax.image.resize(x, (m, times * h, times * w, c), "bilinear", antialias=False)


def shrunk(x: Array, times: int) -> Array:
    """Means of ``times`` x ``times`` cells: [M, H, W, C] -> [M, H / times, W / times, C]."""
    m, h, w, c = x.shape
    return x.reshape(m, h // times, times, w // times, times, c).mean((2, 4))


def rows(x: Array, objects: int) -> Array:
    """[B, ...] -> [M, ...], the same for every object."""
    x = jnp.broadcast_to(x[:, None], (x.shape[0], objects, *x.shape[1:]))
    return x.reshape(-1, *x.shape[2:])


def aggregate(prob: Array, active: Array) -> Array:
    """Logits [B, O + 1, ...] of the background and the objects in ``active`` [B, O] (the others:
    -inf), from the probability [B, O, ...] of each by itself: soft aggregation."""
    flags = active.reshape(*active.shape, *(1,) * (prob.ndim - active.ndim))
    flags = jnp.broadcast_to(flags, prob.shape)
    nobody = jnp.where(flags, 1.0 - prob, 1.0).prod(1, keepdims=True)
    prob = jnp.clip(jnp.concatenate([nobody, prob], 1), LEAST, 1 - LEAST)
    logits = jnp.log(prob) - jnp.log1p(-prob)
    there = jnp.concatenate([jnp.ones_like(flags[:, :1]), flags], 1)
    return jnp.where(there, logits, -jnp.inf)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is one of ``skip`` x ``skip`` where the
    width changes: [M, h, w, inside] -> [M, h, w, width]."""

    width: int
    inside: int
    skip: int = 3
    dtype: DType = jnp.float32

    def setup(self):
        self.conv1 = conv(self.width, 3, self.dtype)
        self.conv2 = conv(self.width, 3, self.dtype)
        if self.inside != self.width:
            self.shortcut = conv(self.width, self.skip, self.dtype)

    def __call__(self, x: Array) -> Array:
        y = self.conv2(nn.relu(self.conv1(nn.relu(x))))
        return y + (x if self.inside == self.width else self.shortcut(x))


class Gate(nn.Module):
    """CBAM: channels are weighed by means and peaks over cells, then cells by those over
    channels."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.down = nn.Dense(self.width // NARROW, dtype=self.dtype)
        self.up = nn.Dense(self.width, dtype=self.dtype)
        self.spatial = conv(1, 7, self.dtype)

    def __call__(self, x: Array) -> Array:
        told = [self.up(nn.relu(self.down(a))) for a in (x.mean((1, 2)), x.max((1, 2)))]
        x = x * nn.sigmoid(told[0] + told[1])[:, None, None]
        both = jnp.stack([x.max(-1), x.mean(-1)], -1)
        return x * nn.sigmoid(self.spatial(both))


class Fuse(nn.Module):
    """Maps of the image and of an object, side by side, as one: x [M, h, w, C], g [M, h, w, D] ->
    [M, h, w, width]."""

    width: int
    inside: int  # C + D
    skip: int = 3
    dtype: DType = jnp.float32

    def setup(self):
        self.block1 = ResBlock(self.width, self.inside, self.skip, self.dtype)
        self.gate = Gate(self.width, self.dtype)
        self.block2 = ResBlock(self.width, self.width, self.skip, self.dtype)

    def __call__(self, x: Array, g: Array) -> Array:
        y = self.block1(jnp.concatenate([x, g.astype(x.dtype)], -1))
        return self.block2(y + self.gate(y))


class Recur(nn.Module):
    """One step of the sensory memory: x [M, h, w, C], state [M, h, w, S] fp32 -> state.

    The candidate does not see the forget gate, and what is forgotten is less than what is
    updated: the authors' form, which differs from a GRU's.
    """

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.transform = conv(3 * self.width, 3, self.dtype)

    def __call__(self, x: Array, state: Array) -> Array:
        both = jnp.concatenate([x, state.astype(x.dtype)], -1)
        forget, update, new = jnp.split(self.transform(both).astype(jnp.float32), 3, -1)
        forget, update = nn.sigmoid(forget), nn.sigmoid(update)
        return forget * state * (1 - update) + update * nn.tanh(new)


class Feel(nn.Module):
    """The sensory memory after a frame whose mask was found: maps of the decoder at strides 16, 8
    and 4 (the last with the logits) and the state [M, h, w, S] -> state."""

    middle: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.from16 = conv(self.middle, 1, self.dtype)
        self.from8 = conv(self.middle, 1, self.dtype)
        self.from4 = conv(self.middle, 1, self.dtype)
        self.recur = Recur(self.width, self.dtype)

    def __call__(self, g16: Array, g8: Array, g4: Array, state: Array) -> Array:
        x = self.from16(g16) + self.from8(shrunk(g8, 2)) + self.from4(shrunk(g4, 4))
        return self.recur(x, state)

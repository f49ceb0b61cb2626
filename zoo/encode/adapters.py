"""Adapter heads: what stands between a student encoder and each of several teachers.

A head takes the student's summary vector and its map of patch tokens into one teacher's space; it
is trained with the student and thrown away with the teachers.

Sources: AM-RADIO (arXiv 2312.06709), EUPE (2603.22387): ``mlp``; Theia (2407.20179): ``conv``;
DUNE (2503.14405): ``transformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.streaming import DType
from ...layers.transformer import Block, BlockConfig, gelu, layer_norm

Array = jax.Array
HEADS = ("mlp", "linear", "conv", "transformer")


class Widths(NamedTuple):
    """Channels of a teacher's answers; 0: it has no such answer."""

    summary: int  # of one vector per frame
    spatial: int  # of the map


class Project(nn.Module):
    """x [..., D] -> [..., width]: dense, norm, GELU, dense without biases; ``hidden`` 0: dense."""

    hidden: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        if self.hidden:
            self.up = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)
            self.norm = layer_norm(1e-6, self.dtype)
        self.out = nn.Dense(self.width, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        # one axis of rows: the weights' gradient is one plain product
        flat = x.reshape(-1, x.shape[-1])
        flat = self.out(gelu(self.norm(self.up(flat))) if self.hidden else flat)
        return flat.reshape(*x.shape[:-1], self.width)


class ConvProject(nn.Module):
    """A map [B, h, w, D] -> [B, h, w, width]: twice norm, 3 x 3 convolution, ReLU; norm; dense."""

    hidden: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.norms = [layer_norm(1e-5, self.dtype) for _ in range(3)]
        self.convs = [nn.Conv(self.hidden, (3, 3), dtype=self.dtype) for _ in range(2)]
        self.out = nn.Dense(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = nn.relu(conv(norm(x)))
        return self.out(self.norms[-1](x))


class Adapter(nn.Module):
    """The head of one teacher. ``hidden`` 0 means the student's width ``dim``."""

    kind: str
    dim: int
    hidden: int
    widths: Widths
    dtype: DType = jnp.float32

    def setup(self):
        width = self.hidden or self.dim
        inner = width if self.kind == "mlp" else 0
        if self.kind == "transformer":
            heads = next(n for n in (12, 8, 6, 4, 3, 2, 1) if not self.dim % n)
            self.block = Block(BlockConfig(self.dim, heads, dtype=self.dtype))
        if self.widths.summary:
            self.summary = Project(inner, self.widths.summary, self.dtype)
        if self.widths.spatial:
            conv = self.kind == "conv"
            self.spatial = (
                ConvProject(width, self.widths.spatial, self.dtype)
                if conv
                else Project(inner, self.widths.spatial, self.dtype)
            )

    def __call__(self, summary: Array, spatial: Array) -> dict[str, Array]:
        """summary [B, D], spatial [B, h, w, D] -> ``summary`` [B, Ds] and ``spatial``
        [B, h, w, Dp], where the teacher has them."""
        if self.kind == "transformer":
            tokens = spatial.reshape(len(spatial), -1, spatial.shape[-1])
            x = jnp.concatenate([summary[:, None], tokens], axis=1)
            x = self.block((), x[:, None])[1][:, 0]
            summary, spatial = x[:, 0], x[:, 1:].reshape(spatial.shape)
        found = {}
        if self.widths.summary:
            found["summary"] = self.summary(summary)
        if self.widths.spatial:
            found["spatial"] = self.spatial(spatial)
        return found


class Adapters(nn.Module):
    """A head per teacher: ``teachers`` is name -> widths.

    Raises:
      ValueError: an unknown kind.
    """

    kind: str
    dim: int
    hidden: int
    teachers: Mapping[str, Widths]
    dtype: DType = jnp.float32

    def setup(self):
        if self.kind not in HEADS:
            raise ValueError(f"head {self.kind!r}: choose from {', '.join(HEADS)}")
        for name, widths in self.teachers.items():
            head = Adapter(self.kind, self.dim, self.hidden, Widths(*widths), self.dtype)
            setattr(self, f"to_{name}", head)

    def __call__(
        self, summaries: Mapping[str, Array], spatial: Array
    ) -> dict[str, dict[str, Array]]:
        """summaries: name -> [B, D], spatial [B, h, w, D] -> name -> answers of its head."""
        heads = {name: getattr(self, f"to_{name}") for name in self.teachers}
        return {name: head(summaries[name], spatial) for name, head in heads.items()}

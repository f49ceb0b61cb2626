"""Several encoders become one grid of tokens: LongVU's second stage.

Sources: Tong et al., "Cambrian-1" (arXiv 2406.16860), section 3.2, the spatial vision aggregator;
Shen et al., "LongVU" (arXiv 2410.17434), which feeds it SigLIP and DINOv2; and the latter's code,
Vision-CAIR/LongVU, vision_sampler.py, whose numbers these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from ...layers.kernels.attention import attention
from ...layers.streaming import Array, DType
from ...layers.transformer import ACTIVATIONS, layer_norm
from ..convert import Rule, linear
from ..rules import dense_rules, norm_rules

EPS = 1e-5


class Cells(NamedTuple):
    """What the queries of a grid read of one encoder: features [M, s * s, D], keep [M, s * s] or
    None."""

    features: Array
    keep: Array | None


def cells_of(x: Array, side: int, keep: Array | None = None) -> Cells:
    """Features [F, h, w, D] of one encoder, in the cells of a grid of ``side`` x ``side`` queries.

    ``keep`` [F, h, w] bool: which are of the picture, and not of its border.

    Raises:
      ValueError: the features are no multiple of the grid.
    """
    frames, height, width, dim = x.shape
    if height != width or height % side:
        raise ValueError(
            f"features of {height} x {width} cells for {side} x {side} queries: a square, and a"
            " multiple of theirs"
        )
    size = height // side

    def parted(a: Array) -> Array:
        a = a.reshape(frames, side, size, side, size, -1).swapaxes(2, 3)
        return a.reshape(frames * side * side, size * size, -1)

    return Cells(parted(x), None if keep is None else parted(keep)[..., 0])


class _Layer(nn.Module):
    """Queries [M, 1, D] read their cells of every encoder together."""

    dim: int
    sizes: tuple[int, ...]
    heads: int
    dtype: DType = jnp.float32

    def setup(self):
        dense = lambda: nn.Dense(self.dim, use_bias=False, dtype=self.dtype)
        norm = lambda: layer_norm(EPS, self.dtype)
        self.context, self.join, self.out = dense(), dense(), dense()
        self.up, self.down, self.norm = dense(), dense(), norm()
        self.query_norm, self.query = norm(), dense()
        count = len(self.sizes)
        self.key_norm, self.key = [norm() for _ in range(count)], [dense() for _ in range(count)]
        self.value_norm = [norm() for _ in range(count)]
        self.value = [dense() for _ in range(count)]
        # a cell of one feature has no place in it
        self.places = [
            self.param(f"places_{i}", nn.initializers.normal(1.0), (size**2, self.dim))
            if size > 1
            else None
            for i, size in enumerate(self.sizes)
        ]

    def __call__(self, queries: Array, context: Array, seen: Sequence[Cells]) -> Array:
        x = self.join(jnp.concatenate([queries, self.context(context)], axis=-1))
        split = lambda a: a.reshape(*a.shape[:2], self.heads, -1)
        keys, values, keep = [], [], []
        for i, (features, there) in enumerate(seen):
            place = self.places[i]
            at = features if place is None else features + place[None].astype(features.dtype)
            keys.append(self.key[i](self.key_norm[i](at)))
            values.append(self.value[i](self.value_norm[i](at)))
            keep.append(jnp.ones(features.shape[:2], bool) if there is None else there)
        y = attention(
            split(self.query(self.query_norm(x))),
            split(jnp.concatenate(keys, axis=1)),
            split(jnp.concatenate(values, axis=1)),
            mask=jnp.concatenate(keep, axis=1)[:, None, None],
        )
        x = self.norm(x + self.out(y.reshape(x.shape)))
        return queries + self.down(ACTIVATIONS["gelu"](self.up(x)))


class SpatialAggregator(nn.Module):
    """Features of several encoders [F, h_i, w_i, V_i] -> tokens [F, side * side, D].

    Every query of a grid reads the cells under it, of all encoders at once, and the mean of the
    first encoder's picture as its context.

    Attributes:
      dim: D.
      side: queries of the grid, a side.
      sizes: cells of each encoder under a query, a side: h_i = side * sizes[i].
      depth: layers.
      heads: of their attention.
    """

    dim: int
    side: int = 12
    sizes: tuple[int, ...] = (2, 2)
    depth: int = 3
    heads: int = 16
    dtype: DType = jnp.float32

    def setup(self):
        dense = lambda: nn.Dense(self.dim, dtype=self.dtype)
        count = range(len(self.sizes))
        self.up, self.down = [dense() for _ in count], [dense() for _ in count]
        self.norm = [layer_norm(EPS, self.dtype) for _ in count]
        self.query = self.param("query", nn.initializers.normal(1.0), (self.dim,))
        self.layers = [
            _Layer(self.dim, self.sizes, self.heads, self.dtype) for _ in range(self.depth)
        ]

    def __call__(self, features: Sequence[Array], keep: Sequence[Array] | None = None) -> Array:
        """Args:
          features: one array per encoder.
          keep: [F, h_i, w_i] bool of each, cells that are of the picture; None: all.

        Raises:
          ValueError: another number of encoders, or features that do not suit the grid.
        """
        if len(features) != len(self.sizes):
            raise ValueError(f"features of {len(features)} encoders, and {len(self.sizes)} sizes")
        seen, context = [], None
        for i, x in enumerate(features):
            if x.shape[1] != self.side * self.sizes[i]:
                raise ValueError(
                    f"features {i} of {x.shape[1]} x {x.shape[2]} cells: {self.side} queries a side"
                    f" read {self.sizes[i]} each, so {self.side * self.sizes[i]}"
                )
            x = self.norm[i](self.down[i](ACTIVATIONS["gelu"](self.up[i](x))))
            context = x.mean(axis=(1, 2)) if context is None else context
            seen.append(cells_of(x, self.side, None if keep is None else keep[i]))
        assert context is not None
        count = self.side**2
        context = jnp.repeat(context, count, axis=0)[:, None]
        queries = jnp.broadcast_to(self.query.astype(context.dtype), context.shape)
        for layer in self.layers:
            queries = layer(queries, context, seen)
        return queries.reshape(-1, count, self.dim)


def aggregator_rules(sizes: Sequence[int], depth: int) -> list[Rule]:
    """The table of a LongVU checkpoint, of its one group of queries."""
    table = [Rule(r"vision_query", "query", lambda a: a[0])]
    for i in range(len(sizes)):
        key = rf"mm_projector_aux_{i}\."
        table += dense_rules(key + "0", f"up_{i}") + dense_rules(key + "2", f"down_{i}")
        table += norm_rules(key + "3", f"norm_{i}")
    plain = {
        "proj_context": "context", "proj_in": "join", r"proj_out\.linear_1": "up",
        r"proj_out\.linear_2": "down", r"cross_attn\.o_proj": "out", 
        r"cross_attn\.q_proj\.1": "query",
    }  # fmt: skip
    for layer in range(depth):
        key, ours = rf"vision_sampler_0\.layers\.{layer}\.", f"layers_{layer}/"
        table += [
            Rule(key + name + r"\.weight", f"{ours}{mine}/kernel", linear)
            for name, mine in plain.items()
        ]
        table += norm_rules(key + "norm", ours + "norm")
        table += norm_rules(key + r"cross_attn\.q_proj\.0", ours + "query_norm")
        for i, size in enumerate(sizes):
            for part, name in (("k", "key"), ("v", "value")):
                own = key + rf"cross_attn\.{part}_proj_{i}\."
                table += norm_rules(own + "0", f"{ours}{name}_norm_{i}")
                table.append(Rule(own + r"1\.weight", f"{ours}{name}_{i}/kernel", linear))
            if size > 1:
                table.append(Rule(key + rf"pos_embed_{i}", f"{ours}places_{i}"))
    return table

"""What not to do: reusing a bidirectional teacher's cached states as the window moves on.

Kept as a negative control. The cached keys and values were computed when their frames were the
newest, in another context and at another place in the window; recomputing the window gives other
states, and the difference grows with depth. The causal students have no such mismatch: their
clip and their stream are the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.streaming import Params
from ....layers.transformer import ACTIVATIONS, layer_norm
from .model import VideoMAE, VideoMAEConfig, position_table

Array = jax.Array


@exportable
class NaiveCache(NamedTuple):
    k: Array  # [B, L, times, n, D]
    v: Array  # [B, L, times, n, D]
    seen: Array  # [B] int32 tubelets


class NaiveReuseCache:
    """A VideoMAE that computes only the newest tubelet's tokens and trusts the cache for the rest.

    ``step(carry, frames [B, tubelet, H, W, 3])`` gives the newest tubelet's tokens after every
    block, [L, B, n, D], to be compared with the tap ``hidden`` of the recomputed window.
    """

    def __init__(self, config: VideoMAEConfig, params: Params):
        self.config, self.params = config, params["params"]
        self.times = config.frames // config.tubelet

    def init_carry(self, batch: int) -> NaiveCache:
        rows, cols = self.config.grid()
        shape = (batch, self.config.depth, self.times, rows * cols, self.config.dim)
        zeros = jnp.zeros(shape, jnp.float32)
        return NaiveCache(zeros, zeros, jnp.zeros((batch,), jnp.int32))

    def step(self, carry: NaiveCache, frames: Array) -> tuple[NaiveCache, Array]:
        """frames [B, tubelet, H, W, 3] -> (carry, tokens after each block [L, B, n, D])."""
        cfg = self.config
        rows, cols = cfg.grid((frames.shape[2], frames.shape[3]))
        model = VideoMAE(cfg)
        x = model.apply({"params": self.params}, frames, 1, rows, cols, method=VideoMAE._embed)
        # The newest tubelet stands at the window's last place, not at its first.
        table = position_table(self.times, cfg.grid(), (rows, cols), cfg.dim)
        table = jnp.asarray(table).reshape(self.times, rows * cols, cfg.dim)
        x = x - position_table(1, cfg.grid(), (rows, cols), cfg.dim) + table[-1]
        count = carry.seen + 1
        seen = jnp.arange(self.times) >= self.times - jnp.minimum(count, self.times)[:, None]
        mask = jnp.repeat(seen, rows * cols, axis=1)[:, None, None]  # [B, 1, 1, keys]
        norm = layer_norm(cfg.eps, jnp.float32)
        batch, tokens, dim = x.shape
        split = lambda a: a.reshape(batch, -1, cfg.heads, dim // cfg.heads)
        dense = lambda p, a: a @ p["kernel"] + p["bias"]

        def block(x, layer):
            p, k_old, v_old = layer
            h = norm.apply({"params": p["norm1"]}, x)
            q, k, v = jnp.split(dense(p["attn"]["qkv"], h), 3, axis=-1)
            k = jnp.concatenate([k_old[:, 1:], k[:, None]], axis=1)
            v = jnp.concatenate([v_old[:, 1:], v[:, None]], axis=1)
            y = jax.nn.dot_product_attention(
                split(q),
                split(k.reshape(batch, -1, dim)),
                split(v.reshape(batch, -1, dim)),
                mask=mask,
            )
            x = x + dense(p["attn"]["out"], y.reshape(x.shape))
            h = dense(p["mlp"]["up"], norm.apply({"params": p["norm2"]}, x))
            x = x + dense(p["mlp"]["down"], ACTIVATIONS[cfg.activation](h))
            return x, (x, k, v)

        layers = self.params["blocks"]["layer0"]
        past = (layers, carry.k.swapaxes(0, 1), carry.v.swapaxes(0, 1))
        _, (hidden, k, v) = jax.lax.scan(block, x, past)
        return NaiveCache(k.swapaxes(0, 1), v.swapaxes(0, 1), count), hidden

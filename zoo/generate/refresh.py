"""Sinks that are refreshed: an old frame that is no longer like the video gives its slot away.

Source: Feng et al., "StreamDiffusionV2" (arXiv 2511.07399), and chenfengxu714/StreamDiffusionV2,
models/wan/causal_model.py, ``CausalWanSelfAttention.forward``. Three things differ. A memory that
is not full yet has room for every frame, so nothing is refreshed before; there, an empty sink
counts as one that is not alike. One frame lies in the same slot in all layers, so the likeness is
the mean over layers. And it is known when the pass is over, so the pass still reads the sink that
leaves.
"""

from __future__ import annotations

import jax.numpy as jnp

from ...layers.memory import Rotary, Slots
from ...layers.positions import rotate_halves
from ...layers.rollout import Keep, Table
from ...layers.rollout.keep import SINK
from ...layers.rollout.places import grid_places
from ...layers.streaming import Array


def likeness(
    keep: Keep,
    rotary: Rotary,
    grid: tuple[int, int],
    memory: Slots,
    table: Table,
    keys: Array,
    values: Array,
) -> Array:
    """Cosine of each sink and a new frame: that of their mean keys, turned to where they stand, and
    that of their mean values, averaged over both and over layers.

    Args:
      memory: keys, values [B, L, C, N * heads, Dh].
      table: what the new frame reads, and where all of it stands.
      keys, values: [B, L, 1, N * heads, Dh] of the new frame.

    Returns:
      [B, sinks] fp32.
    """
    tokens, sinks = grid[0] * grid[1], keep.sinks
    first = keep.first(SINK)
    split = lambda a: a.reshape(*a.shape[:3], tokens, -1, a.shape[-1])  # [B, L, F, N, heads, Dh]

    def turned(a: Array, places: Array) -> Array:
        """a [B, L, F, N, heads, Dh], F frames that stand at ``places`` [B, F]."""
        at = grid_places(places - table.queries[:, :1], *grid).reshape(*places.shape, tokens, 3)
        cos, sin = rotary.angles(at[:, None, :, :, None])
        return rotate_halves(a, cos, sin)

    def mean(a: Array) -> Array:
        a = a.astype(jnp.float32).mean(axis=3)
        return a.reshape(*a.shape[:3], -1)

    def cosine(a: Array, b: Array) -> Array:
        sizes = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
        return (a * b).sum(axis=-1) / jnp.maximum(sizes, 1e-8)

    old = slice(first, first + sinks)
    old_keys = mean(turned(split(memory.keys[:, :, old]), table.keys[:, old]))
    new_keys = mean(turned(split(keys), table.queries))
    both = cosine(old_keys, new_keys) + cosine(
        mean(split(memory.values[:, :, old])), mean(split(values))
    )
    return both.mean(axis=1) / 2


def refreshed(keep: Keep, alike: Array, own: Array, serial: Array, slot: Array) -> Array:
    """Where a new frame goes: to the sink that is least like it, if that is less than
    ``keep.refresh``; else, as sinks have taken frames out of turn, to the oldest recent one.

    Args:
      alike: [B, sinks], of :func:`likeness`.
      own: [B, 1] int32, the frame; -1 for none.
      serial: [B, C] int32, frames of the slots.
      slot: [B, 1] int32, where it goes while the memory fills.
    """
    assert keep.refresh is not None
    ring = slice(keep.sinks, keep.sinks + keep.recent)
    oldest = jnp.argmin(serial[:, ring], axis=1).astype(jnp.int32)[:, None] + keep.sinks
    full = own >= keep.sinks + keep.recent + 1
    least = jnp.argmin(alike, axis=1).astype(jnp.int32)[:, None] + keep.first(SINK)
    unlike = alike.min(axis=1)[:, None] < keep.refresh
    return jnp.where(full, jnp.where(unlike, least, oldest), slot)

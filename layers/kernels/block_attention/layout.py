"""Query rows as the kernels want them: one tile of rows per group and set of key heads."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..integers import quotient

Array = jax.Array


class Tiles(NamedTuple):
    """How heads and rows are cut.

    A program takes ``hold`` key heads that share their pages; their lanes lie in a block of
    ``pack`` heads (128 lanes hold two heads of 64). Rows carry zeros in the other heads' lanes, so
    one product with the whole block gives the scores of every row's own head.
    """

    batch: int
    groups: int  # page lists over time
    lists: int  # page lists over key heads: 1 or kv_heads
    kv_heads: int
    pack: int
    hold: int
    each: int  # rows of one key head: queries of a group times heads per key head
    rows: int  # rows of a program, padded

    @property
    def programs(self) -> int:
        """Programs per batch entry and group."""
        return self.kv_heads // self.hold

    def lane_block(self, program):
        """Which block of ``pack`` heads a program reads."""
        return quotient(program * self.hold, self.pack)

    def page_list(self, program):
        return program if self.lists > 1 else program * 0


def tiles(q: Array, pages: Array, heads: int, kv_heads: int, pack: int, pad) -> Tiles:
    """``pad``: number of rows -> number of rows of the tile."""
    batch, steps = q.shape[:2]
    groups, lists = pages.shape[1:3]
    hold = pack if lists == 1 else 1
    count = steps // groups * (heads // kv_heads)
    return Tiles(batch, groups, lists, kv_heads, pack, hold, count, pad(count * hold))


def _own_lanes(t: Tiles) -> Array:
    """[kv_heads, 1, pack, 1]: where a key head lies in its lane block."""
    own = jnp.arange(t.kv_heads)[:, None] % t.pack == jnp.arange(t.pack)[None]
    return own[:, None, :, None]


def _fill(x: Array, t: Tiles) -> Array:
    """[B, G, kv_heads, each, C] -> [B, G, programs, rows, C]."""
    x = x.reshape(t.batch, t.groups, t.programs, t.hold * t.each, -1)
    return jnp.pad(x, [(0, 0)] * 3 + [(0, t.rows - x.shape[3]), (0, 0)])


def pack_rows(q: Array, t: Tiles) -> Array:
    """q [B, T, H * D] -> [B, G, programs, rows, pack * D]."""
    steps = q.shape[1]
    queries = steps // t.groups
    q = q.reshape(t.batch, t.groups, queries, t.kv_heads, t.each // queries, -1)
    q = q.transpose(0, 1, 3, 2, 4, 5)
    q = q.reshape(t.batch, t.groups, t.kv_heads, t.each, 1, -1)
    if t.pack > 1:
        q = jnp.where(_own_lanes(t), q, jnp.zeros((), q.dtype))
    return _fill(q, t)


def pack_positions(query_pos: Array, t: Tiles) -> Array:
    """query_pos [B, T] -> [B, G, rows, 1] int32, the same for every program."""
    rep = t.each * t.groups // query_pos.shape[1]
    pos = jnp.repeat(query_pos.reshape(t.batch, t.groups, -1), rep, axis=2)
    pos = jnp.tile(pos, (1, 1, t.hold))
    pos = jnp.pad(pos, [(0, 0), (0, 0), (0, t.rows - pos.shape[2])])
    return pos[..., None].astype(jnp.int32)


def unpack_rows(y: Array, t: Tiles, steps: int, lanes: bool = True) -> Array:
    """[B, G, programs, rows, C] -> [B, T, H * Dv]; ``lanes``: C holds ``pack`` heads."""
    y = y[:, :, :, : t.hold * t.each]
    y = y.reshape(t.batch, t.groups, t.kv_heads, t.each, t.pack if lanes else 1, -1)
    if lanes and t.pack > 1:
        y = jnp.where(_own_lanes(t), y, 0).sum(axis=4, keepdims=True)
    y = y.reshape(t.batch, t.groups, t.kv_heads, steps // t.groups, -1, y.shape[-1])
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(t.batch, steps, -1)


def attend_page(state, q, k, v, pos, now, *, page_valid, window: int | None, scale: float):
    """One page of the running softmax, inside a kernel.

    Args:
      state: (peak [R, 1], total [R, 1], acc [R, Cv]) fp32.
      q [R, C], k [P, C], v [P, Cv], pos [1, P] int32, now [R, 1] int32.
      page_valid: whether the page was selected at all.
    """
    peak, total, acc = state
    exact = jax.lax.Precision.HIGHEST if k.dtype == jnp.float32 else None
    logits = jnp.dot(q, k.T, preferred_element_type=jnp.float32, precision=exact) * scale
    exists = (pos >= 0) & page_valid
    seen = exists & (pos <= now)
    if window is not None:
        seen &= pos > now - window
    logits = jnp.where(seen, logits, -1e30)
    top = jnp.maximum(peak, logits.max(axis=-1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(logits - top), 0.0)
    # The mask as a column, without a transpose: 0 x NaN of a key that does not exist is NaN.
    size = v.shape[0]
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    diagonal = jnp.where((row == column) & exists, 1, 0).sum(axis=1, keepdims=True)
    v = jnp.where(diagonal > 0, v.astype(jnp.float32), 0.0).astype(v.dtype)
    keep = jnp.exp(peak - top)
    acc = acc * keep + jnp.dot(
        weights.astype(v.dtype), v, preferred_element_type=jnp.float32, precision=exact
    )
    return top, total * keep + weights.sum(axis=-1, keepdims=True), acc

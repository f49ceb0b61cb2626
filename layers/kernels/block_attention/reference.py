"""Plain jnp block-gather attention: the definition of correct.

The selected pages are gathered and attended to with a masked softmax in fp32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...ranks import to_rank

Array = jax.Array
Sizes = tuple[tuple[str, int], ...] | None  # block sizes by name, of the kernels


def take_rows(x: Array, index: Array) -> Array:
    """x [B, S, X, C], index [B, G, X, M] in range -> rows [B, G, X, M, C]."""
    rows = lambda a, i: a.at[i].get(mode="promise_in_bounds")
    return jax.vmap(jax.vmap(rows, (1, 1), 1))(x, index)


def block_attention(
    q: Array,
    k: Array,
    v: Array,
    pages: Array,
    key_pos: Array,
    query_pos: Array,
    *,
    heads: int,
    kv_heads: int,
    page: int,
    window: int | None,
    scale: float,
    blocks: Sizes = None,
) -> tuple[Array, Array]:
    """As :func:`streamzoo.layers.kernels.block_attention.block_attention`, arguments made whole.

    Args:
      q: [B, T, heads * Dk].
      k, v: [B, S, kv_heads * Dk], [B, S, kv_heads * Dv].
      pages: [B, G, 1 or kv_heads, K] int32, none twice in a row, -1 for none.
      key_pos: [B, S] int32, -1 for none.
      query_pos: [B, T] int32.

    Returns:
      values [B, T, heads * Dv] in q's type, log of the softmax's denominator [B, T, heads] fp32.
    """
    del blocks  # of the kernels
    batch, steps = q.shape[:2]
    slots, (groups, lists, _) = k.shape[1], pages.shape[1:]
    each, shared, rep = steps // groups, kv_heads // lists, heads // kv_heads
    index = pages[..., None] * page
    index = (index + to_rank(jnp.arange(page), index)).reshape(batch, groups, lists, -1)
    found = (jnp.repeat(pages, page, axis=-1) >= 0) & (index < slots)
    index = jnp.clip(index, 0, slots - 1)
    pos = jax.vmap(lambda p, i: p[i])(key_pos, index)
    pos = jnp.where(found, pos, -1)  # [B, G, X, M]

    def select(x):  # NaN of a key that does not exist must not come near a product
        x = take_rows(x.reshape(batch, slots, lists, -1), index)
        x = jnp.where((pos >= 0)[..., None], x, jnp.zeros((), x.dtype))
        return x.reshape(*index.shape, shared, -1)

    rows = q.reshape(batch, groups, each, lists, shared, rep, -1)
    logits = jnp.einsum(
        "btrxhgd,btxmhd->btxhrgm", rows, select(k), preferred_element_type=jnp.float32
    )
    now = query_pos.reshape(batch, groups, 1, each, 1)
    at = pos[:, :, :, None]  # [B, G, X, 1, M]
    seen = (at >= 0) & (at <= now)
    if window is not None:
        seen &= at > now - window
    seen = seen[:, :, :, None, :, None]  # heads and their repetitions in between
    logits = jnp.where(seen, logits * scale, -jnp.inf)
    # A row without keys gives zeros, not NaN.
    peak = jnp.maximum(logits.max(-1, keepdims=True), -1e30)
    peak = jax.lax.stop_gradient(peak)
    weights = jnp.exp(logits - peak)
    total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
    values = select(v)
    y = jnp.einsum(
        "btxhrgm,btxmhd->btrxhgd",
        (weights / total).astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )
    lse = (peak + jnp.log(total))[..., 0].transpose(0, 1, 4, 2, 3, 5)
    return y.reshape(batch, steps, -1).astype(q.dtype), lse.reshape(batch, steps, heads)

"""A memory of keys and values of which every query reads its nearest: LongLLaMA's, over time.

Source: Tworkowski et al., "Focused Transformer" (arXiv 2307.03170), section 3.2: memory and local
context share one softmax; memory keys carry no positions.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter
from .kernels.block_attention import block_attention, merge
from .paged_ring import PagedRing, View, init_ring, push, take, turn
from .streaming import DType

Array = jax.Array


def nearest_pages(view: View, q: Array, until: Array, count: int) -> Array:
    """Pages of the memory with the keys nearest to each query.

    A page's score is the best product of the query with its keys of time ``until`` or earlier:
    exact search, it reads every key (but no value).

    Args:
      q: [B, N, T, H, D]. until: [B, T] int32.

    Returns:
      pages of ``view.k`` [B, N, T, H, count], -1 for none.
    """
    batch, tokens, slots, _ = view.k.shape
    keys = view.k.reshape(batch, tokens, slots, q.shape[3], -1)
    score = jnp.einsum("bnthd,bnshd->bnths", q, keys, preferred_element_type=jnp.float32)
    own = (view.now // view.page)[..., None]
    kept = (own - view.capacity + 1) * view.page  # older pages were given up
    pos = view.pos[:, None]
    seen = (pos >= 0) & (pos <= until[..., None]) & (pos >= kept)
    score = jnp.where(seen[:, None, :, None], jax.lax.stop_gradient(score), -jnp.inf)
    score = score.reshape(*score.shape[:-1], -1, view.page).max(axis=-1)
    # In order of time, so that equal scores are settled in the same way wherever pages lie.
    order = jnp.broadcast_to(view.place[:, None, None, None], score.shape)
    score = jnp.take_along_axis(score, order, axis=-1)
    best, logical = jax.lax.top_k(score, min(count, score.shape[-1]))
    return view.locate(jnp.where(best > -jnp.inf, logical, -1))


class KNNMemory(nn.Module):
    """Attention to the last ``window`` frames and to the nearest of the older ones, over time.

    Every token reads the past of its own position: the last ``window`` frames with rotary
    positions, and of the frames before them, without positions, the ``nearest`` pages of ``page``
    frames (the kernels take multiples of 16; one frame: exact kNN), chosen for each head by the
    products of query and keys; one softmax over both. The carry keeps the last ``capacity`` pages,
    all included. Latency 0.

    Attributes:
      heads: None takes max(1, dim // 64).
      rope_base: of the window's positions, None for none.
      implementation: of ``block_attention``.
    """

    dim: int
    heads: int | None = None
    window: int = 8
    nearest: int = 2
    capacity: int = 8
    page: int = 16
    rope_base: float | None = 10_000.0
    implementation: str | None = None
    dtype: DType = jnp.float32
    latency = 0

    def setup(self):
        if self.dim % self._heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self._heads}")
        if min(self.window, self.nearest, self.capacity, self.page) < 1:
            raise ValueError(
                f"window {self.window}, nearest {self.nearest}, capacity {self.capacity} and page "
                f"{self.page} must be >= 1"
            )
        held = (self.capacity - 1) * self.page + 1
        if self.window > held:
            raise ValueError(
                f"window {self.window} exceeds the {held} frames that capacity {self.capacity} "
                f"pages of {self.page} always hold"
            )
        self.qkv = nn.Dense(3 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    @property
    def _heads(self) -> int:
        return self.heads or max(1, self.dim // 64)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> PagedRing:
        """Empty; see :class:`~streamzoo.layers.paged_ring.PagedRing`."""
        return init_ring(batch, tokens, self.capacity, self.page, self.dim, self.dtype)

    def __call__(
        self, carry: PagedRing, x: Array, valid: Array | None = None
    ) -> tuple[PagedRing, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        batch, _, tokens, _ = x.shape
        dense = compact(x, valid)
        q, k, v = (z.swapaxes(1, 2) for z in jnp.split(self.qkv(dense.x), 3, axis=-1))
        start = carry.seen
        carry, view = push(carry, k, v, dense.fresh, self.page)
        q = q.reshape(*q.shape[:3], self._heads, -1)
        until = view.now - self.window
        pages = nearest_pages(view, q, until, self.nearest)
        fold = lambda z: z.reshape(batch * tokens, *z.shape[2:])
        each = lambda z: jnp.repeat(z, tokens, axis=0)
        flat = fold(q.reshape(*q.shape[:3], -1))
        memory = block_attention(
            flat,
            fold(view.k),
            fold(view.v),
            fold(pages),
            page=self.page,
            heads=self._heads,
            key_pos=each(view.pos),
            query_pos=each(until),
            with_lse=True,
            implementation=self.implementation,
        )
        local, lse = self._local(view, q, start)
        y = merge([(fold(local), fold(lse)), memory])  # pyright: ignore
        y = y.reshape(batch, tokens, *y.shape[1:]).swapaxes(1, 2)
        return carry, scatter(self.out(y), dense, valid)

    def _local(self, view: View, q: Array, start: Array) -> tuple[Array, Array]:
        """The window's attention: (values [B, N, T, D], lse [B, N, T, H])."""
        batch, tokens, steps, heads, width = q.shape
        history = self.window - 1 + steps
        back = jnp.arange(history, dtype=jnp.int32) - self.window + 1
        pos = start[:, None] + back[None]  # [B, history]
        page = view.locate(pos // self.page - view.first[:, None])
        index = jnp.clip(page * self.page + pos % self.page, 0, view.k.shape[2] - 1)
        pos = jnp.where(page >= 0, jnp.take_along_axis(view.pos, index, axis=1), -1)
        keys = take(view.k, index).reshape(batch, tokens, history, heads, width)
        values = take(view.v, index).reshape(batch, tokens, history, heads, width)
        if self.rope_base is not None:  # only distances matter: they count from the chunk's start
            since = jnp.broadcast_to(back[None, None], (batch, 1, history))
            keys = turn(keys, since, self.rope_base)
            q = turn(q, since[..., self.window - 1 :], self.rope_base)
        logits = jnp.einsum("bnthd,bnshd->bnths", q, keys, preferred_element_type=jnp.float32)
        pos, now = pos[:, None], view.now[..., None]
        seen = (pos >= 0) & (pos <= now) & (pos > now - self.window)
        logits = jnp.where(seen[:, None, :, None], logits * width**-0.5, -1e30)
        lse = jax.nn.logsumexp(logits, axis=-1)
        weights = jnp.where(seen[:, None, :, None], jnp.exp(logits - lse[..., None]), 0.0)
        y = jnp.einsum("bnths,bnshd->bnthd", weights.astype(values.dtype), values)
        return y.reshape(batch, tokens, steps, -1), lse

"""Native sparse attention over time: compressed, selected and window branches, three gates.

Source: Yuan et al., "Native Sparse Attention" (arXiv 2502.11089), sections 3.2 and 3.3, with one
block size for compression and selection, as in fla's implementation.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .exportable import exportable
from .gaps import compact, scatter
from .kernels.block_attention import block_attention
from .paged_ring import PagedRing, View, drop_set, init_ring, push, take, turn
from .ranks import to_rank
from .streaming import DType

Array = jax.Array
Gates = tuple[Array | None, Array | None, Array | None]


@exportable
class NSAState(NamedTuple):
    ring: PagedRing
    k: Array  # [B, N, capacity, C] compressed keys of whole pages, page p in slot p % capacity
    v: Array  # [B, N, capacity, C]


def compressed_attention(q: Array, k: Array, v: Array, seen: Array) -> tuple[Array, Array]:
    """Attention to whole pages: (values [B, N, T, X, G, D], weights [B, N, T, X, G, P] fp32).

    q [B, N, T, X, G, D] (X key heads serve G heads each), k, v [B, N, P, X, D], seen [B, T, P];
    zeros where no page is whole yet.
    """
    logits = jnp.einsum("bntxgd,bnpxd->bntxgp", q, k, preferred_element_type=jnp.float32)
    seen = seen[:, None, :, None, None]
    logits = jnp.where(seen, logits * q.shape[-1] ** -0.5, -1e30)
    weights = jnp.where(seen, jax.nn.softmax(logits, axis=-1), 0.0)
    y = jnp.einsum("bntxgp,bnpxd->bntxgd", weights.astype(v.dtype), v)
    return y, weights


def choose_pages(view: View, weights: Array, count: int) -> Array:
    """The ``count`` pages that matter most to each query, shared by the heads of a key head.

    The query's own page, the one before and the first of the stream (while it is kept) come
    first, then the others by their mean weight in the compressed branch.

    Returns:
      logical pages [B, N, T, X, count], -1 for none.
    """
    number, own = view.number[:, None], (view.now // view.page)[..., None]
    score = jax.lax.stop_gradient(weights.mean(axis=4))  # [B, N, T, X, P]
    first = lambda here: here.astype(jnp.float32)
    rank = 8.0 * first(number == own) + 4.0 * first(number == own - 1) + 2.0 * first(number == 0)
    rank = jnp.where(view.readable(), rank, -10.0)[:, None, :, None]
    best, index = jax.lax.top_k(score + rank, min(count, score.shape[-1]))
    return jnp.where(best >= 0, index, -1)


def attend(
    view: View,
    k: Array,
    v: Array,
    q: Array,
    gates: Gates,
    *,
    kv_heads: int,
    count: int,
    window: int,
    chosen: Array | None = None,
    implementation: str | None = None,
) -> Array:
    """The three branches of queries q [B, N, T, H, D] over a view.

    Args:
      k, v: [B, N, pages, C] compressed pages, logical order.
      gates: of the compressed, selected and window branch, each [B, N, T, H]; None: left out.
      chosen: logical pages [B, N, T, X, K] instead of a choice by the compressed branch.

    Returns:
      [B, N, T, H, D] in q's type.
    """
    batch, tokens, steps, heads, _ = q.shape
    now, number, page = view.now, view.number, view.page
    total = jnp.zeros((1, 1, 1, 1, 1), jnp.float32)

    def add(y, gate):
        y = y.reshape(batch, tokens, steps, heads, -1).astype(jnp.float32)
        return total + y * gate[..., None].astype(jnp.float32)

    if gates[0] is not None or (chosen is None and gates[1] is not None):
        whole = view.readable() & ((number[:, None] + 1) * page - 1 <= now[..., None])
        per_head = lambda x: x.reshape(*x.shape[:3], kv_heads, -1)
        rows = q.reshape(batch, tokens, steps, kv_heads, heads // kv_heads, -1)
        y, weights = compressed_attention(rows, per_head(k), per_head(v), whole)
        if gates[0] is not None:
            total = add(y, gates[0])
        if chosen is None:
            chosen = choose_pages(view, weights, count)

    fold = lambda x: x.reshape(batch * tokens, *x.shape[2:])
    each = lambda x: jnp.repeat(x, tokens, axis=0)  # the same for every position

    def gather(pages, window=None):
        return block_attention(
            fold(q.reshape(batch, tokens, steps, -1)),
            fold(view.k),
            fold(view.v),
            pages,
            page=page,
            heads=heads,
            kv_heads=kv_heads,
            key_pos=each(view.pos),
            query_pos=each(now),
            window=window,
            implementation=implementation,
        )

    if gates[1] is not None:
        assert chosen is not None
        total = add(gather(fold(view.locate(chosen))), gates[1])
    if gates[2] is not None:
        back = jnp.arange((window + page - 2) // page + 1, dtype=jnp.int32)
        recent = (now // page - view.first[:, None])[..., None] - back[None, None]
        pages = each(view.locate(recent))[:, :, None]
        total = add(gather(pages, window), gates[2])
    return jnp.broadcast_to(total, (*q.shape[:-1], view.v.shape[-1] // kv_heads)).astype(q.dtype)


def nsa_attention(
    q: Array,
    k: Array,
    v: Array,
    gates: Gates,
    block_indices: Array | None = None,
    block_size: int = 64,
    block_count: int = 16,
    window: int = 512,
    *,
    implementation: str | None = None,
) -> Array:
    """Native sparse attention of a whole sequence, compressed blocks being means.

    Args:
      q: [B, T, H, D]; head h reads key head h // (H / X).
      k, v: [B, T, X, D], [B, T, X, Dv].
      gates: of the compressed, selected and window branch, each [B, T, H]; None leaves it out.
      block_indices: [B, T, X, K] blocks to read, -1 for none; None: the ``block_count`` chosen by
        :func:`choose_pages`.
      block_size: keys per block, of the compressed and the selected branch.
      window: keys of the window branch, the query's own included.

    Returns:
      [B, T, H, Dv] in q's type.

    Raises:
      ValueError: window, block_size or block_count below 1.
    """
    if min(window if gates[2] is not None else 1, block_size, block_count) < 1:
        raise ValueError(
            f"window {window}, block_size {block_size} and block_count {block_count} must be >= 1"
        )
    batch, steps, kv_heads = k.shape[:3]
    count = -(-steps // block_size)
    pad = count * block_size - steps
    row = lambda x: jnp.pad(x.reshape(batch, 1, steps, -1), [(0, 0), (0, 0), (0, pad), (0, 0)])
    keys, values = row(k), row(v)
    place = jnp.arange(count * block_size, dtype=jnp.int32)
    across = lambda x: jnp.broadcast_to(x, (batch, *x.shape))
    view = View(
        keys,
        values,
        across(jnp.where(place < steps, place, -1)),
        across(place[:steps]),
        jnp.zeros((batch,), jnp.int32),
        across(jnp.arange(count, dtype=jnp.int32)),
        count,
        block_size,
    )
    means = lambda x: mean_pages(x.reshape(batch, 1, count, block_size, -1))
    y = attend(
        view,
        means(keys),
        means(values),
        q[:, None],
        tuple(None if g is None else g[:, None] for g in gates),  # pyright: ignore
        kv_heads=kv_heads,
        count=block_count,
        window=window,
        chosen=None if block_indices is None else block_indices[:, None].astype(jnp.int32),
        implementation=implementation,
    )
    return y[:, 0]


def mean_pages(x: Array) -> Array:
    """x [..., page, C] -> its mean over the page, in x's type."""
    return x.astype(jnp.float32).mean(axis=-2).astype(x.dtype)


class Compress(nn.Module):
    """One key (or value) for a page: a learned place within the page, then an MLP over all of it.

    x [..., page, X * D] -> [..., X * D], the same weights for every head.
    """

    page: int
    width: int  # D
    dtype: DType = jnp.float32

    def setup(self):
        self.place = self.param(
            "place", nn.initializers.normal(0.02), (self.page, 1, self.width), jnp.float32
        )
        self.up = nn.Dense(self.width, dtype=self.dtype)
        self.down = nn.Dense(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        lead = x.shape[:-2]
        x = x.reshape(*lead, self.page, -1, self.width)
        x = x + to_rank(self.place.astype(x.dtype), x)
        x = x.swapaxes(-2, -3).reshape(*lead, x.shape[-2], self.page * self.width)
        return self.down(nn.gelu(self.up(x))).reshape(*lead, -1)


class NSA(nn.Module):
    """Native sparse attention over time: every token reads the past of its own position.

    A page is ``page`` frames. The carry keeps the last ``capacity`` pages, the page in progress
    included, and a compressed key and value of each whole one: its size is constant, and what is
    given up is given up by pages. Time enters by rotary positions when a key is written, in a
    form that stays exact for ever (:func:`~streamzoo.layers.paged_ring.turn`). Latency 0.

    Attributes:
      heads: None takes max(1, dim // 64). kv_heads: key heads, each shared by heads / kv_heads
        heads, which select together; None takes heads.
      page: frames per page; the kernels take multiples of 16. capacity: pages kept.
      selected: pages read by the selected branch. window: frames of the window branch.
      compress: ``mlp`` (learned, with places within the page) or ``mean``.
      rope_base: None for no positions.
      implementation: of ``block_attention``.
    """

    dim: int
    heads: int | None = None
    kv_heads: int | None = None
    page: int = 16
    capacity: int = 8
    selected: int = 4
    window: int = 16
    compress: str = "mlp"
    rope_base: float | None = 10_000.0
    implementation: str | None = None
    dtype: DType = jnp.float32
    latency = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads, key heads, head width)."""
        heads = self.heads or max(1, self.dim // 64)
        kv_heads = self.kv_heads or heads
        if self.dim % heads or heads % kv_heads:
            raise ValueError(
                f"dim {self.dim}, heads {heads}, kv_heads {kv_heads}: each must divide the one "
                "before"
            )
        return heads, kv_heads, self.dim // heads

    def setup(self):
        heads, kv_heads, width = self.sizes
        if min(self.page, self.capacity, self.selected, self.window) < 1:
            raise ValueError(
                f"page {self.page}, capacity {self.capacity}, selected {self.selected} and window "
                f"{self.window} must be >= 1"
            )
        if self.window > (self.capacity - 1) * self.page + 1:
            raise ValueError(
                f"window {self.window} exceeds the {(self.capacity - 1) * self.page + 1} frames "
                f"that capacity {self.capacity} pages of {self.page} always hold"
            )
        if self.compress not in ("mlp", "mean"):
            raise ValueError(f"compress={self.compress!r} is neither 'mlp' nor 'mean'")
        self.q = nn.Dense(self.dim, dtype=self.dtype)
        self.kv = nn.Dense(2 * kv_heads * width, dtype=self.dtype)
        self.gate = nn.Dense(3 * heads, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)
        if self.compress == "mlp":
            self.compress_k = Compress(self.page, width, self.dtype)
            self.compress_v = Compress(self.page, width, self.dtype)
        else:
            self.compress_k = self.compress_v = mean_pages

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> NSAState:
        """Empty; see :class:`NSAState`."""
        _, kv_heads, width = self.sizes
        ring = init_ring(batch, tokens, self.capacity, self.page, kv_heads * width, self.dtype)
        shape = (batch, tokens, self.capacity, kv_heads * width)
        return NSAState(ring, jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def __call__(
        self, carry: NSAState, x: Array, valid: Array | None = None
    ) -> tuple[NSAState, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        heads, kv_heads, width = self.sizes
        dense = compact(x, valid)
        split = lambda z, n: z.reshape(*z.shape[:3], n, width).swapaxes(1, 2)
        k, v = jnp.split(self.kv(dense.x), 2, axis=-1)
        q, k, v = split(self.q(dense.x), heads), split(k, kv_heads), v.swapaxes(1, 2)
        if self.rope_base is not None:
            now = carry.ring.seen[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            q, k = (turn(z, now[:, None], self.rope_base) for z in (q, k))
        ring, view = push(carry.ring, k.reshape(v.shape), v, dense.fresh, self.page)
        carry, ck, cv = self._compress(carry, ring, view)
        gates = jax.nn.sigmoid(self.gate(dense.x).astype(jnp.float32)).swapaxes(1, 2)
        y = attend(
            view,
            ck,
            cv,
            q,
            tuple(jnp.split(gates, 3, axis=-1)),  # pyright: ignore
            kv_heads=kv_heads,
            count=self.selected,
            window=self.window,
            implementation=self.implementation,
        )
        y = y.swapaxes(1, 2).reshape(x.shape)
        return carry, scatter(self.out(y), dense, valid)

    def _compress(self, carry: NSAState, ring: PagedRing, view: View):
        """The carry after the chunk, and the compressed pages in logical order."""
        batch, tokens, _, channels = view.k.shape
        old, page = self.capacity - 1, self.page  # logical pages whole before this chunk
        count = view.place.shape[1] - old
        new = view.place[:, old:]  # the page in progress and those after it
        number = view.number
        whole = (number[:, old:] + 1) * page <= ring.seen[:, None]
        whole &= (number[:, old:] + 1) * page > carry.ring.seen[:, None]
        last = ring.seen[:, None] // page - 1  # the last whole page
        slot = jnp.where(whole & (number[:, old:] > last - self.capacity), 0, self.capacity)
        slot = jnp.where(slot == 0, number[:, old:] % self.capacity, self.capacity)
        past = number[:, :old] % self.capacity
        start = number[:, None, old:] * page

        def keys(x: Array) -> Array:
            # The keys are turned by their time; what is learned must not see which year it is. So
            # it reads them as of a page at time 0, and its answer is turned by the page's time.
            if self.rope_base is None or self.compress == "mean":
                return self.compress_k(x)
            heads = lambda x: x.reshape(*x.shape[:-1], *self.sizes[1:])
            made = self.compress_k(
                turn(heads(x), -start[..., None], self.rope_base).reshape(x.shape)
            )
            return turn(heads(made), start, self.rope_base).reshape(made.shape)

        def both(raw, kept, module):
            rows = raw.reshape(batch, tokens, -1, page * channels)
            rows = take(rows, new) if raw is ring.k or raw is ring.v else rows[:, :, old:]
            made = module(rows.reshape(batch, tokens, count, page, channels))
            return drop_set(kept, slot, made), jnp.concatenate(
                [take(kept, past), made.astype(kept.dtype)], axis=2
            )

        after_k, ck = both(view.k, carry.k, keys)
        after_v, cv = both(view.v, carry.v, self.compress_v)
        return NSAState(ring, after_k, after_v), ck, cv

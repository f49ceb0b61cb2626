"""Long-term memory: what is found by likeness, and prototypes that stand for what was used most.

Source: Cheng and Schwing, XMem (arXiv 2207.07115), sections 3.2 and 3.3 and its code,
hkchengrex/XMem, ``memory_util.py`` and ``memory_manager.py``; hkchengrex/Cutie. That the
multiplicity of a prototype is not remembered is theirs.

Axis letters: ``lead`` rows, N entries, P prototypes, M cells that ask, C key and D value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from .exportable import exportable
from .ranks import to_rank

Array = jax.Array
MANY = 2**20  # reads after which usage and reads are halved: their ratio stays, fp32 stays exact
LEAST = 1e-7  # of reads, as in the authors' code


@exportable
@struct.dataclass
class LongTerm:
    """Prototypes.

    key: [*lead, N, C]; value: [*lead, N, D]; shrink, usage: [*lead, N]
    reads: [*lead, N] int32; count: [*lead] int32
    """

    key: Array
    shrink: Array
    value: Array
    usage: Array
    reads: Array
    count: Array


def like(mask: Array, leaf: Array) -> Array:
    """``mask`` with axes of one behind it, as many as ``leaf`` has more."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def similarity(key: Array, shrink: Array, query: Array, select: Array) -> Array:
    """Anisotropic L2: how like each entry is to each cell that asks, [..., M, N], 0 at most.

    key [..., N, C] and shrink [..., N] of entries (a sharper entry falls off faster), query and
    select [..., M, C] of cells (which channels matter to each).
    """
    far = jnp.einsum("...nc,...mc->...mn", key * key, select)
    near = jnp.einsum("...nc,...mc->...mn", key, query * select)
    own = (select * query * query).sum(-1)[..., None]
    return (2 * near - far - own) * shrink[..., None, :] * key.shape[-1] ** -0.5


def share(like: Array, there: Array, nearest: int) -> Array:
    """Softmax over the ``nearest`` entries (0: all) that are ``there`` [..., N]: like [..., M, N]
    -> the same, rows sum to 1, or to 0 where nothing is there. Of equal ones all are read."""
    like = jnp.where(there[..., None, :], like, -jnp.inf)
    best = like.max(-1, keepdims=True)
    read = jnp.broadcast_to(there[..., None, :], like.shape)
    if 0 < nearest < like.shape[-1]:
        read &= like >= jax.lax.top_k(like, nearest)[0][..., -1:]
    weight = jnp.where(read, jnp.exp(like - jnp.where(jnp.isfinite(best), best, 0.0)), 0.0)
    return weight / jnp.maximum(weight.sum(-1, keepdims=True), jnp.finfo(weight.dtype).tiny)


def counted(usage: Array, reads: Array, more: Array, reading: Array) -> tuple[Array, Array]:
    """(usage, reads) [..., N] after one more read by the rows ``reading``."""
    usage = usage + jnp.where(reading[..., None], more, 0.0)
    reads = reads + reading[..., None].astype(jnp.int32)
    return usage, reads


def frequency(usage: Array, reads: Array) -> Array:
    """Attention per read: what decides who stays."""
    return usage / (reads.astype(jnp.float32) + LEAST)


def prototypes(
    key: Array, shrink: Array, select: Array, value: Array, usage: Array, count: int
) -> tuple[Array, Array, Array]:
    """The ``count`` most used of entries [*lead, N, ...], and what they stand for: (key [*lead,
    count, C], shrink [*lead, count], value [*lead, count, D]), values and shrinkages as means over
    all entries by their likeness to the prototype."""
    top = jax.lax.top_k(usage, count)[1]
    pick = lambda a: jnp.take_along_axis(a, top[..., None], -2)
    chosen = pick(key)
    every = jnp.ones(usage.shape, bool)
    weight = share(similarity(key, shrink, chosen, pick(select)), every, 0)
    mean = jnp.einsum("...pn,...nd->...pd", weight, value.astype(jnp.float32))
    return chosen, jnp.einsum("...pn,...n->...p", weight, shrink), mean


def remembered(
    long: LongTerm, key: Array, shrink: Array, value: Array, spare: int, ties: bool
) -> LongTerm:
    """With prototypes [*lead, P, ...] behind those that are there; where these leave no room, the
    least used go, and ``spare`` more. Those that were used as little as the first that goes go,
    too, but for ``ties``."""
    n, p = long.shrink.shape[-1], shrink.shape[-1]
    place = to_rank(jnp.arange(n), long.shrink)
    known = place < long.count[..., None]
    usage = frequency(long.usage, long.reads)
    usage = jnp.where(known, usage, -1.0)
    most = n - p - spare
    full = (long.count >= n - p)[..., None]
    if ties:
        rank = jnp.argsort(jnp.argsort(-usage, axis=-1, stable=True), axis=-1, stable=True)
        stay = rank < most
    else:
        stay = usage > jax.lax.top_k(usage, most + 1)[0][..., -1:]
    stay = known & (stay | ~full)
    order = jnp.argsort(~stay, axis=-1, stable=True)
    count = stay.sum(-1, dtype=jnp.int32)
    ours = LongTerm(key, shrink, value, jnp.zeros_like(shrink),
                    jnp.zeros(shrink.shape, jnp.int32), count)  # fmt: skip

    def joined(old: Array, new: Array) -> Array:
        if old.ndim == count.ndim:
            return count + p
        at = lambda index, a: jnp.take_along_axis(a, like(index, a), count.ndim)
        behind = place - count[..., None]
        fresh = at(jnp.clip(behind, 0, p - 1), new).astype(old.dtype)
        kept = jnp.where(like(behind < 0, old), at(order, old), jnp.zeros((), old.dtype))
        return jnp.where(like((behind >= 0) & (behind < p), old), fresh, kept)

    return jax.tree.map(joined, long, ours)

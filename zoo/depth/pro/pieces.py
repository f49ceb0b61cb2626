"""Pictures in overlapping square pieces, and maps of pieces joined again."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def cut(pictures: Array, side: int, overlap: float) -> Array:
    """Square pictures [M, S, S, C] -> pieces [L, M, side, side, C], row by row.

    overlap: share of a piece that the next one has, too.
    """
    if pictures.shape[1] == pictures.shape[2] == side:
        return pictures[None]
    step = int(side * (1 - overlap))
    starts = range(0, pictures.shape[1] - side + 1, step)
    rows = [pictures[:, a : a + side] for a in starts]
    return jnp.stack([row[:, :, b : b + side] for row in rows for b in starts])


def joined(pieces: Array, padding: int) -> Array:
    """Maps of pieces [L, M, h, h, C], L a square number, row by row -> one map [M, H, H, C].

    padding: cells that are cut off each edge at which two pieces meet; at most a quarter of h, and
    none of fewer than four pieces.
    """
    count = math.isqrt(pieces.shape[0])
    if pieces.shape[0] < 4:
        return pieces[0]
    side = pieces.shape[2]
    pad = min(side // 4, padding)

    def span(k: int) -> slice:
        return slice(pad if k else 0, side if k == count - 1 else side - pad)

    rows = [
        jnp.concatenate([pieces[r * count + c][:, span(r), span(c)] for c in range(count)], axis=2)
        for r in range(count)
    ]
    return jnp.concatenate(rows, axis=1)

"""From frames to their tokens: places on three axes, and what a token sees."""

from __future__ import annotations

import jax.numpy as jnp

from ..memory import View
from ..streaming import Array
from .table import Table


def grid_places(frames: Array, height: int, width: int) -> Array:
    """Times of frames [B, F] int32 -> places (time, row, column) of their tokens
    [B, F * height * width, 3] int32."""
    batch, count = frames.shape
    shape = (batch, count, height, width)
    time = jnp.broadcast_to(frames[:, :, None, None], shape)
    row = jnp.broadcast_to(jnp.arange(height, dtype=jnp.int32)[None, None, :, None], shape)
    column = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None, None, None], shape)
    return jnp.stack([time, row, column], axis=-1).reshape(batch, -1, 3)


def view_of(table: Table, height: int, width: int, cells: Array | None = None) -> View:
    """A table of frames -> how their tokens see each other; frames are height x width tokens.

    cells: [B, C, N] int32, the cell of each remembered token in its frame; None: in their order.

    Only differences of places count, so they are counted from the first query: the numbers stay
    small, and their angles exact, however long a stream runs.
    """
    seen = jnp.repeat(table.frames >= 0, height * width, axis=1)[:, None]
    first = table.queries[:, :1]
    keys = grid_places(table.keys - first, height, width)
    queries = grid_places(table.queries - first, height, width)
    if cells is not None:
        flat = cells.reshape(cells.shape[0], -1)
        place = jnp.stack([flat // width, flat % width], axis=-1)
        keys = keys.at[:, : flat.shape[1], 1:].set(place)
    return View(seen, keys, queries[:, :, None])

"""Slots: a memory of constant size that holds un-rotated keys and values of tokens.

Keys are turned when they are read, not when they are written: whatever leaves the memory, the
positions of the others can then be what a policy says. What a slot holds is told by notes beside
the keys; which rows there are, and where they stand, is in the notes alone, so rows never move.

Source of the idea: Xiao et al., "Efficient Streaming Language Models with Attention Sinks"
(arXiv 2309.17453), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..streaming import Array, DType

EMPTY = -1  # serial of a slot that holds nothing
Notes = dict[str, Array]


@exportable
@flax.struct.dataclass
class Slots:
    """C slots of every stream, the same ones in every layer.

    Attributes:
      keys, values: [B, L, C, G, Dh], un-rotated.
      notes: name -> [B, C, ...] int32, what a slot holds. ``serial`` is always there: the number
        of the token in its stream, :data:`EMPTY` for none.
      seen: [B] int32, tokens that came so far.
      next: [B] int32, the position that the next token takes where nobody says another.
      layered: name -> [B, L, ...], what a policy knows of each layer by itself.
    """

    keys: Array
    values: Array
    notes: Notes
    seen: Array
    next: Array
    layered: Notes = flax.struct.field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """C."""
        return self.keys.shape[2]

    @property
    def used(self) -> Array:
        """[B] int32: slots that hold something."""
        return (self.notes["serial"] >= 0).sum(axis=1, dtype=jnp.int32)


def empty_slots(
    batch: int,
    depth: int,
    capacity: int,
    heads: int,
    width: int,
    notes: dict[str, tuple[int, ...]],
    dtype: DType = jnp.float32,
) -> Slots:
    """Slots that hold nothing; ``notes`` gives the shape of each further note of a slot."""
    shape = (batch, depth, capacity, heads, width)
    kept = {name: jnp.zeros((batch, capacity, *more), jnp.int32) for name, more in notes.items()}
    kept["serial"] = jnp.full((batch, capacity), EMPTY, jnp.int32)
    count = jnp.zeros(batch, jnp.int32)
    # arrays of their own each: a donated carry may not hold one buffer twice
    return Slots(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), kept, count, count + 0)


def store(slots: Slots, keys: Array, values: Array, notes: Notes, slot: Array) -> Slots:
    """Writes new rows into slots, whatever those held.

    Args:
      keys, values: [B, L, T, G, Dh] of the new tokens.
      notes: of the new tokens, [B, T, ...].
      slot: [B, T] int32, where each goes, C for one that is not kept; no two into one.
    """

    def put(rows: Array, slot: Array, fresh: Array) -> Array:  # of one stream
        return rows.at[slot].set(fresh.astype(rows.dtype), mode="drop")

    deep = jax.vmap(jax.vmap(put, in_axes=(0, None, 0)))
    kept = {name: jax.vmap(put)(old, slot, notes[name]) for name, old in slots.notes.items()}
    new_keys, new_values = deep(slots.keys, slot, keys), deep(slots.values, slot, values)
    return replace(slots, keys=new_keys, values=new_values, notes=kept)


def forget(notes: Notes, keep: Array) -> Notes:
    """The notes with the slots emptied that are not in ``keep`` [B, C]."""
    return {**notes, "serial": jnp.where(keep, notes["serial"], EMPTY)}


def numbered(slots: Slots, valid: Array) -> tuple[Array, Array]:
    """(serial [B, T] of the new tokens that are ``valid`` [B, T], EMPTY for others; tokens seen
    after them [B])."""
    rank = jnp.cumsum(valid, axis=1, dtype=jnp.int32)
    serial = jnp.where(valid, slots.seen[:, None] + rank - 1, EMPTY)
    return serial, slots.seen + rank[:, -1]


def placed(slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> tuple[Array, Array]:
    """Positions of the new tokens, ``told["place"]`` [B, T, axes] or one after the other, as int32,
    and the first that is free after them [B]."""
    place = told.get("place")
    if place is None:
        follows = slots.next[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
        place = jnp.broadcast_to(follows[..., None], (*valid.shape, axes))
    ends = jnp.where(valid, place.max(axis=-1), slots.next[:, None] - 1)
    return place.astype(jnp.int32), jnp.maximum(slots.next, ends.max(axis=1) + 1)


def joined(old: Notes, new: Notes, name: str) -> Array:
    """One note of the slots and then of the new tokens: [B, C + T, ...]."""
    return jnp.concatenate([old[name], new[name]], axis=1)


def bytes_of(slots: Any) -> int:
    """Bytes of a memory, or of its shapes."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(slots))

"""FeatureBank: a fixed number of slots that remember features of frames.

A :class:`Bank` holds named features, the frame each came from and, where a law needs them, weights
and usage counts. All leaves share leading axes (streams, or streams and objects) and then the slot
axis N; the shapes never change. How a frame gets into the bank is a write law:

- :func:`write_ring`: first in, first out by frame number (the recent memories of SAM 2);
- :func:`write_pinned`: frames that stay; when full, the oldest gives way (its prompted frames);
- :func:`add_sum`: one slot per object, a running weighted sum (the object memory of Cutie).

Frames whose cells become prototypes (XMem) are in ``three_store.py``.

Sources: Ravi et al., SAM 2 (arXiv 2408.00714) section 4; Cheng et al., Cutie (arXiv 2310.12982)
section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from .exportable import exportable
from .ranks import to_rank

Array = jax.Array

EMPTY = -1


@exportable
@flax.struct.dataclass
class Bank:
    """Slots. ``lead`` are the leading axes, the stream axis first.

    Attributes:
      values: name -> [*lead, N, ...], zero where empty.
      time: [*lead, N] int32, number of the frame a slot holds, -1 where empty.
    """

    values: dict[str, Array]
    time: Array

    @property
    def slots(self) -> int:
        """N."""
        return self.time.shape[-1]

    @property
    def valid(self) -> Array:
        """[*lead, N] bool: the slot holds something."""
        return self.time >= 0


def empty_bank(
    lead: tuple[int, ...], slots: int, features: Mapping[str, tuple[tuple[int, ...], Any]]
) -> Bank:
    """A bank of empty slots.

    features: name -> (shape of one slot, dtype)
    """
    values = {
        name: jnp.zeros((*lead, slots, *shape), dtype) for name, (shape, dtype) in features.items()
    }
    return Bank(values, jnp.full((*lead, slots), EMPTY, jnp.int32))


def _like(mask: Array, leaf: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def put(bank: Bank, chosen: Array, values: Mapping[str, Array], time: Array) -> Bank:
    """Overwrites slots.

    Args:
      chosen: [*lead, N] bool, the slots to overwrite.
      values: name -> [*lead, ...], what each of them gets.
      time: [*lead] int32, the frame it is of.
    """
    axis = chosen.ndim - 1
    new = {
        name: jnp.where(
            _like(chosen, old), jnp.expand_dims(values[name], axis).astype(old.dtype), old
        )
        for name, old in bank.values.items()
    }
    return Bank(new, jnp.where(chosen, time[..., None], bank.time))


def clear(bank: Bank, which: Array) -> Bank:
    """Empties all slots of the streams or objects in ``which`` [*lead] bool."""
    which = jnp.broadcast_to(which[..., None], bank.time.shape)
    values = {
        n: jnp.where(_like(which, v), jnp.zeros((), v.dtype), v) for n, v in bank.values.items()
    }
    return Bank(values, jnp.where(which, EMPTY, bank.time))


def age(bank: Bank, now: Array) -> Array:
    """Frames since each slot was written: [*lead, N]; now [*lead]. Negative where empty."""
    return jnp.where(bank.valid, now[..., None] - bank.time, -1)


# --- first in, first out ---------------------------------------------------------------------


def ring_slot(time: Array, slots: int) -> Array:
    """The slot of frame ``time``: each frame has its own place, so nothing is ever moved."""
    return jnp.mod(time, slots)


def write_ring(bank: Bank, values: Mapping[str, Array], time: Array, write: Array) -> Bank:
    """FIFO: frame ``time`` replaces the frame N before it. A frame that is not written leaves its
    slot as it is, so a reader must take slots by their :func:`age`, not by their mere presence.

    Args:
      values: name -> [*lead, ...].
      time: [*lead] int32.
      write: [*lead] bool.
    """
    slot = ring_slot(time, bank.slots)[..., None]
    here = to_rank(jnp.arange(bank.slots), slot) == slot
    return put(bank, here & write[..., None], values, time)


# --- pinned ----------------------------------------------------------------------------------


def write_pinned(
    bank: Bank,
    values: Mapping[str, Array],
    time: Array,
    write: Array,
    *,
    keep_first: bool = False,
) -> tuple[Bank, Bank]:
    """Keeps every frame until the slots are full; then the oldest gives way.

    In a stream the N latest of the past are the N closest to the present, which is SAM 2's choice
    among prompted frames. A frame number that is in the bank already is replaced.

    Args:
      values, time, write: as in :func:`write_ring`.
      keep_first: never give up the earliest frame (N >= 2).

    Returns:
      the bank and what was pushed out of it, a bank of one slot (empty if nothing was).

    Raises:
      ValueError: ``keep_first`` with a single slot.
    """
    if keep_first and bank.slots < 2:
        raise ValueError(f"keep_first needs at least 2 slots, not {bank.slots}")
    big = jnp.iinfo(jnp.int32).max
    order = bank.time  # empty slots are -1: they go first
    if keep_first:
        first = jnp.argmin(jnp.where(bank.valid, bank.time, big), axis=-1, keepdims=True)
        pinned = (jnp.arange(bank.slots) == first) & bank.valid
        order = jnp.where(pinned, big, order)
    target = jnp.argmin(order, axis=-1)
    same = bank.time == time[..., None]
    target = jnp.where(same.any(axis=-1), jnp.argmax(same, axis=-1), target)
    chosen = (to_rank(jnp.arange(bank.slots), same) == target[..., None]) & write[..., None]

    def picked(leaf: Array) -> Array:
        index = _like(target[..., None], leaf)
        return jnp.take_along_axis(leaf, index, axis=target.ndim)

    old_time = jnp.take_along_axis(bank.time, target[..., None], axis=-1)
    lost = write[..., None] & (old_time >= 0) & (old_time != time[..., None])
    out = Bank({n: picked(v) for n, v in bank.values.items()}, jnp.where(lost, old_time, EMPTY))
    return put(bank, chosen, values, time), out


# --- running sums ----------------------------------------------------------------------------


@exportable
@flax.struct.dataclass
class Sums:
    """Running sums of weighted features, one row per slot.

    total: [*lead, N, D] fp32, sum of weight * feature
    weight: [*lead, N] fp32, sum of weights
    """

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """[*lead, N, D]; zero where nothing was added."""
        return self.total / jnp.maximum(self.weight, 1e-6)[..., None]


def empty_sums(lead: tuple[int, ...], slots: int, dim: int) -> Sums:
    """Sums of nothing."""
    return Sums(jnp.zeros((*lead, slots, dim), jnp.float32), jnp.zeros((*lead, slots), jnp.float32))


def add_sum(sums: Sums, features: Array, weights: Array) -> Sums:
    """Adds a frame's tokens: however a stream is cut, the sums are those of the whole.

    features: [*lead, L, D]; weights: [*lead, N, L], how much of each token belongs to each slot
    (Cutie: an object's mask times the attention of one of its queries).
    """
    weights = weights.astype(jnp.float32)
    total = jnp.einsum("...nl,...ld->...nd", weights, features.astype(jnp.float32))
    return Sums(sums.total + total, sums.weight + weights.sum(axis=-1))

"""Which slot of a tracker's banks a frame gets, and which slots a later frame reads.

With these laws fixed slots hold exactly what the published predictors look up in dictionaries of
all frames: the last ``memories - 1`` tracked frames (or, with a stride, the last one and those on
the grid of the stride), the last ``max_pointers - 1`` pointers, and of the prompted frames the
``prompted_slots`` latest, which in a stream are the closest.

``config`` is a :class:`~streamzoo.zoo.segment.tracker.TrackerConfig`. Axis letters: B streams, O
object slots, R recent memories, L tokens, K and D widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ...layers.feature_bank import Bank, age, clear, put, ring_slot, write_pinned, write_ring
from .stream import TrackCarry

Array = jax.Array


def recent_slots(config: Any) -> int:
    """R: with a stride one place is for the last frame, which may be off the stride's grid."""
    return config.memories - 1 if config.stride == 1 else config.memories


def offsets(config: Any, recent: Bank, now: Array) -> tuple[Array, Array]:
    """Of each recent memory its rank among those read (1: the last frame) and whether it is read.

    now [B, O] -> both [B, O, R].
    """
    ages = age(recent, now)
    if config.stride == 1:
        offset, there = ages, recent.valid
    else:
        last = jnp.arange(recent.slots) == config.memories - 1
        newest = (now[..., None] - 2) // config.stride * config.stride
        offset = jnp.where(last, ages, (newest - recent.time) // config.stride + 2)
        there = recent.valid & jnp.where(last, ages == 1, offset >= 2)
    return offset, there & (offset >= 1) & (offset <= config.memories - 1)


def keep(
    config: Any,
    carry: TrackCarry,
    memory: Array,
    pointer: Array,
    active: Array,
    prompted: Array,
) -> TrackCarry:
    """The banks with frame ``carry.frame`` in them.

    memory [B, O, L, K], pointer [B, O, D], active and prompted [B, O].
    """
    now = jnp.broadcast_to(carry.frame[:, None], active.shape)
    tracked = active & ~prompted
    both = {"memory": memory, "pointer": pointer}
    pinned, lost = write_pinned(carry.prompted, both, now, prompted, keep_first=config.keep_first)
    recent = _write_recent(config, carry.recent, {"memory": memory}, now, tracked)
    # a prompted frame that had to go is still one of the recent frames
    time = lost.time[..., 0]
    old = {"memory": lost.values["memory"][:, :, 0]}
    readable = (time >= 0) & (now - time < (config.memories - 1) * config.stride)
    recent = _write_recent(config, recent, old, time, readable)
    pointers = write_ring(carry.pointers, {"pointer": pointer}, now, tracked)
    old = {"pointer": lost.values["pointer"][:, :, 0]}
    near = (time >= 0) & (now - time < config.max_pointers - 1)
    pointers = write_ring(pointers, old, time, near)
    return replace(carry, prompted=pinned, recent=recent, pointers=pointers)


def _write_recent(
    config: Any, bank: Bank, values: Mapping[str, Array], time: Array, write: Array
) -> Bank:
    if config.stride == 1:
        return write_ring(bank, values, time, write)
    slots = jnp.arange(bank.slots)
    last = (slots == config.memories - 1) & (time >= bank.time[..., -1])[..., None]
    ring = slots == ring_slot(time // config.stride, config.memories - 1)[..., None]
    ring &= (time % config.stride == 0)[..., None]
    return put(bank, (last | ring) & write[..., None], values, time)


def forget(carry: TrackCarry, remove: Array) -> TrackCarry:
    """Empties the slots in ``remove`` [B, O]."""
    return replace(
        carry,
        active=carry.active & ~remove,
        prompted=clear(carry.prompted, remove),
        recent=clear(carry.recent, remove),
        pointers=clear(carry.pointers, remove),
    )

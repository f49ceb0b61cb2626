"""What tasks of streaming models share: carries between chunks, and frames as a model takes them.

Each stream (lane) of a batch is trained through the carry it will have when it runs: a chunk begins
with the carry that the chunk before it left (back-propagation through time is cut there), and a
stream whose video begins anew is reset.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ... import zoo
from ...layers.streaming import Carry
from ...zoo.action import SlidingWindow
from ...zoo.registry import Card

Array = jax.Array


def reset(carry: Carry, fresh: Array, new: Carry) -> Carry:
    """Carry with the lanes ``fresh`` [B] as ``new`` says, the others as they were."""
    pick = lambda n, c: jnp.where(fresh.reshape(-1, *[1] * (c.ndim - 1)), n, c)
    return jax.tree.map(pick, new, carry)


def first_carry(model: Any, lanes: int, shape: tuple[int, ...] | None) -> Carry:
    """Carry of a streaming model for frames of ``shape`` (h, w, 3), or (h, w, F) of a stem's
    features; None: as its config says."""
    if shape is not None and not isinstance(model, SlidingWindow):
        patch = model.config.patch if shape[-1] != 3 else 1
        shape = (shape[0] * patch, shape[1] * patch)
    return model.init_carry(lanes, shape)


def prepared(frames: Array, card: Card) -> Array:
    """uint8 frames normalised as in streaming; a stem's features as float32."""
    return zoo.preprocess(frames, card) if frames.dtype == jnp.uint8 else frames.astype(jnp.float32)

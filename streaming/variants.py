"""Other ways to compute one step, which leave the carry what it is: smaller pictures, narrower
numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .framing import resized
from .step import Step

Size = tuple[int, int]


class Variant(NamedTuple):
    """step: compiled for pictures of ``size`` (height, width)."""

    step: Step
    size: Size


def shrunk(frames: np.ndarray, size: Size) -> np.ndarray:
    """Frames uint8 [B, T, H, W, 3] at another (height, width), bilinear."""
    if frames.shape[2:4] == tuple(size):
        return frames
    flat = frames.reshape(-1, *frames.shape[2:])
    made = np.stack([resized(one, size) for one in flat])
    return made.reshape(*frames.shape[:2], *made.shape[1:])


def answers_alike(step: Step, other: Step, size: Size, smaller: Size) -> bool:
    """Whether streams can go from one step at ``size`` to another at ``smaller`` and back: the
    carry is of the same arrays, and so is the answer."""
    try:
        first, second = (_shapes(one, s, size) for one, s in ((step, size), (other, smaller)))
    except (ValueError, TypeError):
        return False  # a model that takes one size alone
    return first == second


def _shapes(step: Step, frames: Size, carry: Size) -> tuple[Any, list[Any]]:
    model = step.model
    state = jax.eval_shape(lambda: model.init_carry(1, carry))
    images = jax.ShapeDtypeStruct((1, 1, *frames, 3), jnp.float32)
    valid = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    both = jax.eval_shape(model.apply, step.params, state, images, valid)
    leaves, tree = jax.tree.flatten(both)
    return tree, [(leaf.shape, leaf.dtype) for leaf in leaves]

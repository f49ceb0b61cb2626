"""Clear errors for wrong input, raised while shapes are known and nothing has run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..layers.streaming import Array, Carry


def check_frames(frames: Array, multiple: int, model: str, features: int = 0) -> None:
    """Frames must be floats [B, T, H, W, 3] with H and W multiples of the patch.

    A model with a stem also takes that stem's ``features`` wide maps [B, T, h, w, F].

    Raises:
      ValueError: with what came and what would do.
    """
    shape = jnp.shape(frames)
    mapped = features > 0 and len(shape) == 5 and shape[-1] == features
    if not mapped and (len(shape) != 5 or shape[-1] != 3):
        raise ValueError(
            f"{model} takes frames [batch, time, height, width, 3], got {list(shape)}; "
            "one frame of one stream is frames[None, None]"
        )
    if not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(
            f"{model} takes normalised floats, got {frames.dtype}; "
            "streamzoo.preprocess(frames, card) makes them from uint8"
        )
    multiple = 1 if mapped else multiple
    if shape[1] < 1 or shape[2] % multiple or shape[3] % multiple or not shape[2] * shape[3]:
        raise ValueError(
            f"{model} takes at least one frame with sides that are multiples of {multiple}, "
            f"got time {shape[1]} and {shape[2]}x{shape[3]}"
        )


def check_images(frames: Array, multiple: int, model: str) -> None:
    """Frames of an image encoder must be floats [B, H, W, 3], H and W multiples of ``multiple``.

    Raises:
      ValueError: with what came and what would do.
    """
    shape = jnp.shape(frames)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(
            f"{model} takes frames [batch, height, width, 3], got {list(shape)}; a clip "
            "[B, T, H, W, 3] is frames.reshape(-1, *frames.shape[2:]), one frame is frames[None]"
        )
    if not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(
            f"{model} takes normalised floats, got {frames.dtype}; "
            "streamzoo.preprocess(frames, card) makes them from uint8"
        )
    if shape[1] % multiple or shape[2] % multiple or not shape[1] * shape[2]:
        raise ValueError(
            f"{model} takes frames with sides that are multiples of {multiple}, "
            f"got {shape[1]}x{shape[2]}; resize or pad them"
        )


def check_taps(taps: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError for a tap that the model does not have."""
    for tap in taps:
        if tap not in known:
            near = difflib.get_close_matches(tap, known, n=2) or list(known)
            raise ValueError(f"unknown tap {tap!r}; did you mean {near}?")


def check_carry(carry: Carry, expected: Callable[[], Any]) -> None:
    """The carry must have the tree, shapes and dtypes that ``expected()`` would make.

    Raises:
      ValueError: naming the first leaf that differs.
    """
    want = jax.eval_shape(expected)
    if jax.tree.structure(carry) != jax.tree.structure(want):
        raise ValueError(
            "the carry is of another model; make one with model.init_carry(batch) "
            f"(got {jax.tree.structure(carry)}, need {jax.tree.structure(want)})"
        )
    leaves = jax.tree_util.tree_leaves_with_path(want)
    for (path, need), got in zip(leaves, jax.tree.leaves(carry), strict=True):
        if jnp.shape(got) != need.shape or got.dtype != need.dtype:
            raise ValueError(
                f"carry{jax.tree_util.keystr(path)} is {got.dtype}{list(jnp.shape(got))} and "
                f"should be {need.dtype}{list(need.shape)}: another batch size, frame size or "
                "model; make one with model.init_carry(batch, frame_shape=(h, w))"
            )

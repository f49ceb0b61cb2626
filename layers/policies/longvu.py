"""LongVU's later stages: more tokens for frames that a question asks about, fewer for what stays.

Source: Shen et al., "LongVU: Spatiotemporal Adaptive Compression for Long Video-Language
Understanding" (arXiv 2410.17434), sections 3.2 and 3.3, and its code, Vision-CAIR/LongVU. Its first
stage is ``token_drop.distinct_frames``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..gaps import hold, zero_invalid
from ..streaming import Array


def asked_frames(low: Array, text: Array, count: int) -> Array:
    """The ``count`` frames whose tokens are nearest to a question, by their mean inner product.

    Args:
      low: [T, N, D], a few tokens of every frame.
      text: [L, D], embedded words of the question (the authors: those after the video).
      count: frames.

    Returns:
      [T] bool.
    """
    score = jnp.einsum("tnd,ld->tnl", low, text).mean(axis=(1, 2))
    rank = jnp.argsort(jnp.argsort(-score, stable=True))
    return rank < count


def frames_that_fit(room: int, frames: int, low: int, high: int) -> int:
    """How many of ``frames`` may have ``high`` tokens where the others have ``low`` ones and there
    is ``room`` for so many tokens."""
    return min(frames, max(0, (room - frames * low) // (high - low)))


def mixed(low: Array, high: Array, detailed: Array) -> tuple[Array, Array]:
    """Frames with all their tokens or with few, in their order.

    Args:
      low, high: [T, N, D] and [T, M, D], M >= N.
      detailed: [T] bool.

    Returns:
      (tokens [T, M, D], [T, M] bool: which of them there are).
    """
    short = high.shape[1] - low.shape[1]
    few = jnp.pad(low, ((0, 0), (0, short), (0, 0)))
    there = detailed[:, None] | (jnp.arange(high.shape[1]) < low.shape[1])[None]
    return jnp.where(detailed[:, None, None], high, few), there


class Anchor(NamedTuple):
    """The frame that others are held against.

    tokens: [B, P, D].
    phase: [B] int32, frames since it.
    """

    tokens: Array
    phase: Array


@dataclass(frozen=True)
class AnchorDrop:
    """Every ``window``-th frame stays whole; of the others, tokens that turned away from it.

    Attributes:
      window: frames from one anchor to the next.
      threshold: cosine to the anchor's token from which on a token leaves (0.7 in the authors'
        code, 0.8 in their paper).
    """

    window: int = 8
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"a window of {self.window} frames: at least 1")

    def init_carry(self, batch: int, tokens: int, dim: int) -> Anchor:
        """The next frame is an anchor."""
        return Anchor(jnp.zeros((batch, tokens, dim)), jnp.zeros(batch, jnp.int32))

    def __call__(self, carry: Anchor, x: Array, valid: Array | None = None) -> tuple[Anchor, Array]:
        """x [B, T, P, D] -> (carry, which tokens stay [B, T, P] bool)."""
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def step(carry: Anchor, now):
            x, there = now
            first = carry.phase == 0
            anchor = jnp.where(first[:, None, None], x, carry.tokens)
            product = (x * anchor).sum(axis=-1)
            lengths = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(anchor, axis=-1)
            like = product / jnp.maximum(lengths, 1e-8)
            stay = first[:, None] | (like < self.threshold)
            after = Anchor(anchor, jnp.mod(carry.phase + 1, self.window))
            return hold(after, carry, there), stay & there[:, None]

        over = (zero_invalid(x, valid).swapaxes(0, 1), there.swapaxes(0, 1))
        carry, stay = jax.lax.scan(step, carry, over)
        return carry, stay.swapaxes(0, 1)


def trimmed(stay: Array, room: int, window: int = 8) -> Array:
    """At most ``room`` tokens: the same number leaves from the end of every window, then from the
    end of all.

    Args:
      stay: [T, P] bool, of :class:`AnchorDrop`.
      room: tokens.
      window: as of the drop.

    Returns:
      [T, P] bool.
    """
    frames, tokens = stay.shape
    windows = -(-frames // window)
    padded = jnp.pad(stay, ((0, windows * window - frames), (0, 0))).reshape(windows, -1)
    excess = jnp.maximum(stay.sum(dtype=jnp.int32) - room, 0)
    cut = -(-excess // windows)
    left = padded.sum(axis=1, dtype=jnp.int32)[:, None] - cut
    padded &= jnp.cumsum(padded, axis=1, dtype=jnp.int32) <= left
    stay = padded.reshape(-1)[: frames * tokens]
    stay &= jnp.cumsum(stay, dtype=jnp.int32) <= room
    return stay.reshape(frames, tokens)

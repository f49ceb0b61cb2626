"""Who sees whom where a text and a video are read side by side.

Source: Tong et al., "Speak While Watching: Unleashing TRUE Real-Time Video Understanding Capability
of Multimodal Large Language Models" (code: EIT-NLP/Speak-While-Watching).
"""

from __future__ import annotations

import jax.numpy as jnp

from .streaming import Array

PLACES = ("origin", "group", "gap")
GAP = 10_000  # where answers begin that stand apart, as published


def watching(answer: Array, limit: Array) -> Array:
    """Answers that are written while the video comes: a word sees the words before it, and of the
    input only what had come when it was written.

    Args:
      answer: [B, N] bool, tokens of answers; the others are input.
      limit: [B, N] int32, of an answer's token: how many tokens of the sequence had come.

    Returns:
      [B, N, N] bool, True where a token sees another; the input sees the input before it alone.
    """
    at = jnp.arange(answer.shape[1])
    before = (at <= at[:, None])[None]
    own, other = answer[:, :, None], answer[:, None]
    came = at[None, None] < limit[:, :, None]
    return before & jnp.where(own, other | came, ~other)


def answer_places(place: Array, answer: Array, kind: str = "group", gap: int = GAP) -> Array:
    """Positions of answers beside those of their input.

    Args:
      place: [B, N, A] int32, positions of one sequence, input and answers in turn.
      answer: [B, N] bool.
      kind: ``origin`` leaves them; ``group`` counts answers from 0; ``gap`` from ``gap``.

    Returns:
      [B, N, A] int32.

    Raises:
      ValueError: another kind.
    """
    if kind not in PLACES:
        raise ValueError(f"places of answers {kind!r}: choose from {PLACES}")
    if kind == "origin":
        return place
    rank = jnp.cumsum(answer, axis=1, dtype=jnp.int32) - 1 + (gap if kind == "gap" else 0)
    return jnp.where(answer[..., None], rank[..., None], place)

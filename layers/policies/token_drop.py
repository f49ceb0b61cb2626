"""Which tokens of a frame a language model needs to see: those that changed, those that are new.

Sources: Yao et al., "TimeChat-Online" (arXiv 2504.17343) for the drop by change; Wang et al., "STC"
(lern-to-write/STC) for the novelty; Shen et al., "LongVU" (arXiv 2410.17434) for whole frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..gaps import hold, zero_invalid
from ..streaming import Array


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def turned(x: Array, reference: Array) -> Array:
    """1 - cos of tokens [..., D] and their reference: [...]."""
    return 1 - (_unit(x) * _unit(reference)).sum(axis=-1)


def shifted(x: Array, reference: Array) -> Array:
    """Mean absolute difference of tokens [..., D] (pixels of their cell) and their reference."""
    return jnp.abs(x - reference).mean(axis=-1)


CHANGES = {"feature": turned, "pixel": shifted}
REFERENCES = ("previous", "last_kept")


class Before(NamedTuple):
    """What a :class:`TokenDrop` compares with.

    tokens: [B, P, D].
    frames: [B] int32, frames that came, counted no further than 1.
    """

    tokens: Array
    frames: Array


@dataclass(frozen=True)
class TokenDrop:
    """Differential token dropping: a token that did not change is left out. The first frame stays.

    Attributes:
      threshold: least change of a token that stays; None for a share.
      share: share of a frame's tokens, those that changed least, that leaves; None for a threshold.
      by: change of a ``feature`` (1 - cos) or of a ``pixel`` (mean absolute difference).
      reference: the token of the ``previous`` frame (the authors'), or of the frame in which it was
        ``last_kept``, which a slow change cannot creep past.

    Raises:
      ValueError: both or neither of threshold and share, or an unknown word.
    """

    threshold: float | None = None
    share: float | None = None
    by: str = "feature"
    reference: str = "previous"

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.share is None):
            raise ValueError("tokens leave by a threshold or by a share, one of them")
        for word, known in ((self.by, tuple(CHANGES)), (self.reference, REFERENCES)):
            if word not in known:
                raise ValueError(f"{word!r}: choose from {known}")

    def init_carry(self, batch: int, tokens: int, dim: int) -> Before:
        """Nothing to compare with; frames of ``tokens`` tokens [dim]."""
        return Before(jnp.zeros((batch, tokens, dim)), jnp.zeros(batch, jnp.int32))

    def __call__(
        self, carry: Before, x: Array, valid: Array | None = None, kept: Array | None = None
    ) -> tuple[Before, Array]:
        """Frames in, which of their tokens stay out.

        Args:
          carry: of :meth:`init_carry`.
          x: [B, T, P, D].
          valid: [B, T] bool, frames that are there; of the others no token stays.
          kept: [B, T, P, D], what the next frame is compared with, where that is not x (the first
            of two frames that make a token, while x is of the last).

        Returns:
          (carry, [B, T, P] bool).
        """
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid
        frames = [zero_invalid(a, valid) for a in (x, x if kept is None else kept)]

        def step(before: Before, now):
            x, own, there = now
            change = CHANGES[self.by](x, before.tokens)
            stay = (before.frames == 0)[:, None] | self._stays(change)
            fresh = jnp.ones_like(stay) if self.reference == "previous" else stay
            after = Before(
                jnp.where(fresh[..., None], own, before.tokens), jnp.ones_like(before.frames)
            )
            return hold(after, before, there), stay & there[:, None]

        over = tuple(a.swapaxes(0, 1) for a in (*frames, there))
        carry, stay = jax.lax.scan(step, carry, over)
        return carry, stay.swapaxes(0, 1)

    def _stays(self, change: Array) -> Array:
        if self.threshold is not None:
            return change >= self.threshold
        assert self.share is not None
        rank = jnp.argsort(jnp.argsort(change, axis=1, stable=True), axis=1)
        return rank >= int(self.share * change.shape[1])


class Seen(NamedTuple):
    """The mean of what a :class:`Novelty` saw.

    mean: [B, D]; with ``mixed`` [B, D / 2].
    chunks: [B] int32, how many.
    """

    mean: Array
    chunks: Array


@dataclass(frozen=True)
class Novelty:
    """STC's pruner: the tokens that are least like their frame and like all that came before.

    Only the half of the channels that varies least within a chunk is compared. The memory is the
    mean of chunks, the present one included, before it is brought to unit length.

    Attributes:
      keep: tokens of a frame that stay.
      mixed: the memory averages each chunk's own half of the channels in the order of their
        variance, so that it adds different channels to each other, as the authors' code does; else
        it averages all channels, and the half is taken of the mean.
    """

    keep: int = 64
    mixed: bool = False

    def init_carry(self, batch: int, dim: int) -> Seen:
        """Nothing seen; tokens of ``dim`` channels."""
        width = dim // 2 if self.mixed else dim
        return Seen(jnp.zeros((batch, width)), jnp.zeros(batch, jnp.int32))

    def chunk(self, carry: Seen, x: Array) -> tuple[Seen, Array]:
        """x [B, F, P, D], frames that come as one -> (carry, which tokens stay [B, F, P] bool)."""
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        order = jnp.argsort(tokens.var(axis=1), axis=-1, stable=True)
        half = order[:, : x.shape[-1] // 2]
        less = jnp.take_along_axis(x, half[:, None, None], axis=-1)
        entry = less.mean(axis=(1, 2)) if self.mixed else tokens.mean(axis=1)
        count = carry.chunks + 1
        mean = carry.mean + (entry - carry.mean) / count[:, None]
        memory = mean if self.mixed else jnp.take_along_axis(mean, half, axis=1)
        unit = _unit(less)
        near = lambda d: sum(jnp.exp(-d / (2 * 2.0**k)) for k in range(-3, 2))
        apart = lambda other: ((unit - other) ** 2).sum(axis=-1)
        frame = unit.mean(axis=2, keepdims=True)
        score = near(apart(frame)) + near(apart(_unit(memory)[:, None, None]))
        rank = jnp.argsort(jnp.argsort(score, axis=2, stable=True), axis=2)
        return Seen(mean, count), rank < self.keep

    def __call__(self, carry: Seen, x: Array, valid: Array | None = None) -> tuple[Seen, Array]:
        """Frame by frame: x [B, T, P, D], valid [B, T] -> (carry, [B, T, P] bool)."""
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def step(carry: Seen, now):
            x, there = now
            after, stay = self.chunk(carry, x[:, None])
            return hold(after, carry, there), stay[:, 0] & there[:, None]

        over = (zero_invalid(x, valid).swapaxes(0, 1), there.swapaxes(0, 1))
        carry, stay = jax.lax.scan(step, carry, over)
        return carry, stay.swapaxes(0, 1)


def distinct_frames(x: Array, window: int = 16, threshold: float = 0.83) -> Array:
    """LongVU's first stage: frames that are less like the others of their window, and its middle.

    It needs the whole window, so it is for clips and for buffers, not for single frames.

    Args:
      x: [T, ...], features of frames.
      window: frames that are compared; the last window may be shorter.
      threshold: mean cosine to the window, itself included, from which on a frame leaves.

    Returns:
      [T] bool.

    Raises:
      ValueError: a window of no frames.
    """
    if window < 1:
        raise ValueError(f"a window of {window} frames: at least 1")
    unit = _unit(x.reshape(x.shape[0], -1))
    parts = []
    for at in range(0, x.shape[0], window):
        own = unit[at : at + window]
        like = (own @ own.T).mean(axis=1)
        parts.append((like < threshold) | (jnp.arange(len(own)) == len(own) // 2))
    return jnp.concatenate(parts)

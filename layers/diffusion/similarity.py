"""Frames that look like the last one need no new picture: StreamDiffusion's stochastic filter.

A frame is skipped with probability ``1 - (1 - cosine) / (1 - threshold)`` against the last frame
that passed, but never more than ``longest`` times on end (cumulo-autumn/StreamDiffusion,
src/streamdiffusion/image_filter.py, at commit b623251).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..gaps import hold, zero_invalid
from ..streaming import Array


@exportable
class SimilarityState(NamedTuple):
    """Per stream: the last frame that passed, skips on end, and where its random numbers are."""

    last: Array  # [B, N] float32
    begun: Array  # [B] bool
    skipped: Array  # [B] int32
    drawn: Array  # [B] int32; wraps


def chance(cosine: Array, threshold: float) -> Array:
    """The probability that a frame is skipped."""
    if threshold >= 1:
        return jnp.zeros_like(cosine)
    return jnp.maximum(0, 1 - (1 - cosine) / (1 - threshold))


def decide(
    skipped: Array, cosine: Array, uniform: Array, threshold: float, longest: int, law: str
) -> tuple[Array, Array]:
    """(does the frame pass, skips on end afterwards), of numbers of one shape."""
    normal = chance(cosine, threshold) < uniform
    if law == "official":
        # the count outlives a normal pass, and is compared before it rises: runs of longest + 1
        forced = ~normal & (skipped > longest)
        after = jnp.where(normal, skipped, jnp.where(forced, 0, skipped + 1))
        return normal | forced, after
    passes = normal | (skipped >= longest)
    return passes, jnp.where(passes, 0, skipped + 1)


class SimilarityFilter(nn.Module):
    """Frames [B, T, H, W, C] -> which of them pass, [B, T] bool.

    Attributes:
      size: numbers of a frame, H * W * C.
      threshold: cosine at which nothing is skipped yet; 1 skips nothing.
      longest: skips on end.
      law: "reset" begins the count anew at every frame that passes. "official" keeps it over
        frames that pass by chance, so that a refresh comes early, and skips one more on end.
      seed: of the random numbers, which depend on it and on how many a stream has drawn.
    """

    size: int
    threshold: float = 0.98
    longest: int = 10
    law: Literal["reset", "official"] = "reset"
    seed: int = 0
    latency = 0

    @nn.nowrap
    def init_carry(self, batch: int) -> SimilarityState:
        counts = jnp.zeros((batch,), jnp.int32)
        last = jnp.zeros((batch, self.size), jnp.float32)
        return SimilarityState(last, jnp.zeros((batch,), bool), counts, counts)

    def __call__(
        self, carry: SimilarityState, frames: Array, valid: Array | None = None
    ) -> tuple[SimilarityState, Array]:
        batch, steps = frames.shape[:2]
        here = jnp.ones((batch, steps), bool) if valid is None else valid
        flat = zero_invalid(frames, valid).reshape(batch, steps, -1).astype(jnp.float32)
        key = jax.random.key(self.seed)
        draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (), jnp.float32))

        def one(old, at):
            frame, here = at
            # torch's cosine: each norm is at least 1e-8
            norms = [jnp.maximum(jnp.sqrt((a * a).sum(-1)), 1e-8) for a in (frame, old.last)]
            cosine = (frame * old.last).sum(-1) / (norms[0] * norms[1])
            uniform = draw(old.drawn)
            passes, skipped = decide(
                old.skipped, cosine, uniform, self.threshold, self.longest, self.law
            )
            passes, skipped = passes | ~old.begun, jnp.where(old.begun, skipped, 0)
            new = SimilarityState(
                jnp.where(passes[:, None], frame, old.last),
                jnp.ones_like(old.begun),
                skipped,
                old.drawn + old.begun,  # the first frame draws none
            )
            return hold(new, old, here), passes & here

        carry, passes = jax.lax.scan(one, carry, (flat.swapaxes(0, 1), here.swapaxes(0, 1)))
        return carry, passes.swapaxes(0, 1)

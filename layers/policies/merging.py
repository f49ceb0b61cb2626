"""Tokens that are alike become one: bipartite matching, to a budget.

Sources: Bolya et al., "Token Merging: Your ViT But Faster" (arXiv 2210.09461), section 3; as
VideoChat-Flash (arXiv 2501.00574) merges the tokens of a clip, and LiveStar those of a frame.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..streaming import Array


def merge(x: Array, target: int, heads: int = 16) -> tuple[Array, Array]:
    """Merges tokens until ``target`` are left, at most half of them in one round.

    Even tokens look for the odd token that is most like them (cosine of the mean over ``heads``
    blocks of channels); those that found the best are added to it, weighted by what they stand for.
    Tokens come out in another order: evens that stayed by themselves, the least like first's
    opposite (best match first), then the odds.

    Args:
      x: [B, N, D].
      target: tokens that are left, at least 1.
      heads: blocks of channels whose mean is compared; a divisor of D.

    Returns:
      (tokens [B, target, D], how many of the N each stands for [B, target] in x's type).

    Raises:
      ValueError: a target outside 1..N, or heads that do not divide D.
    """
    batch, count, dim = x.shape
    if not 1 <= target <= count:
        raise ValueError(f"{target} tokens of {count}: give a target from 1 to {count}")
    if dim % heads:
        raise ValueError(f"{heads} heads do not divide {dim} channels")
    sizes = jnp.ones((batch, count), x.dtype)
    while x.shape[1] > target:
        x, sizes = _round(x, sizes, min(x.shape[1] - target, x.shape[1] // 2), heads)
    return x, sizes


def _round(x: Array, sizes: Array, gone: int, heads: int) -> tuple[Array, Array]:
    """``gone`` even tokens join odd ones."""
    metric = x.reshape(*x.shape[:2], heads, -1).mean(axis=2)
    metric = metric / jnp.linalg.norm(metric, axis=-1, keepdims=True)
    scores = metric[:, ::2] @ metric[:, 1::2].swapaxes(1, 2)
    best, partner = scores.max(axis=-1), scores.argmax(axis=-1)
    order = jnp.argsort(-best, axis=-1, stable=True)
    leave, stay = order[:, :gone], order[:, gone:]
    partner = jnp.take_along_axis(partner, leave, axis=1)
    # [B, gone, odd]: which odd token each joins
    joins = (partner[..., None] == jnp.arange(scores.shape[2])[None, None]).astype(x.dtype)
    take = lambda a, at: jnp.take_along_axis(a, at.reshape(*at.shape, *(1,) * (a.ndim - 2)), axis=1)
    weighted = x * sizes[..., None]
    total = weighted[:, 1::2] + jnp.einsum("bgo,bgd->bod", joins, take(weighted[:, ::2], leave))
    size = sizes[:, 1::2] + jnp.einsum("bgo,bg->bo", joins, take(sizes[:, ::2], leave))
    alone = take(x[:, ::2], stay), take(sizes[:, ::2], stay)
    odd = total / size[..., None]
    return jnp.concatenate([alone[0], odd], axis=1), jnp.concatenate([alone[1], size], axis=1)

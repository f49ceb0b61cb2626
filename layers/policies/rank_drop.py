"""Tokens of a video that leave between the layers of a language model.

Source: Li et al., "VideoChat-Flash: Hierarchical Compression for Long-Context Video Modeling"
(arXiv 2501.00574), section 3.3, and its code, OpenGVLab/VideoChat-Flash. A stage keeps a fixed
share, so the later layers have memories of a smaller, fixed size, and positions of their own.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..kernels.attention import attention
from ..streaming import Array


def spread(count: int, kept: int) -> np.ndarray:
    """``kept`` of ``count`` places, evenly apart, first and last included: int [kept]."""
    return np.linspace(0, count - 1, kept).astype(int)


def looked_at(query: Array, keys: Array, first: int, count: int) -> Array:
    """How much the last token of a prompt looks at each of a video's tokens.

    Args:
      query: [B, H, Dh], turned to its position.
      keys: [B, N, G, Dh] of all tokens, turned.
      first, count: where the video's tokens are.

    Returns:
      [B, count], the mean over heads of the attention's weights.
    """
    batch, heads, width = query.shape
    total = keys.shape[1]
    # the weights are what attention makes of a unit vector per key
    own = jnp.broadcast_to(jnp.eye(total, dtype=query.dtype), (batch, total, total))
    rows = jnp.broadcast_to(own[:, :, None], (batch, total, keys.shape[2], total))
    found = attention(query[:, None], keys, rows, scale=width**-0.5)
    return found[:, 0].mean(axis=1)[:, first : first + count]


def best(scores: Array, kept: int) -> Array:
    """The places of the ``kept`` largest scores [B, N], in order: [B, kept] int32."""
    order = jnp.argsort(-scores, axis=1, stable=True)[:, :kept]
    return jnp.sort(order, axis=1).astype(jnp.int32)

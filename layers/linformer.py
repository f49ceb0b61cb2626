"""Linformer attention: keys and values of N tokens are shortened to a fixed number of rows.

Source: Wang et al., "Linformer: Self-Attention with Linear Complexity" (arXiv 2006.04768),
equation 7, projections shared by the heads (section 4).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def linformer_attention(q: Array, k: Array, v: Array, shorten_k: Array, shorten_v: Array) -> Array:
    """softmax(Q (E K)~) (F V): every query reads ``rank`` mixtures of keys and of values.

    Args:
      q, k, v: [M, N, H, D]; scores are scaled by D ** -0.5.
      shorten_k, shorten_v: E and F [rank, N]. With both the identity it is full attention.

    Returns:
      [M, N, H, D] in q's type.

    Raises:
      ValueError: projections of another number of tokens.
    """
    tokens = k.shape[1]
    if shorten_k.shape[-1] != tokens or shorten_v.shape[-1] != tokens:
        raise ValueError(
            f"Linformer's projections were made for {shorten_k.shape[-1]} tokens, and {tokens} "
            "came: it takes clips of one size only"
        )
    shorten = lambda e, x: jnp.einsum("rn,mnhd->mrhd", e.astype(x.dtype), x)
    k, v = shorten(shorten_k, k), shorten(shorten_v, v)
    logits = jnp.einsum("mnhd,mrhd->mhnr", q, k, preferred_element_type=jnp.float32)
    rows = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("mhnr,mrhd->mnhd", rows, v).astype(q.dtype)

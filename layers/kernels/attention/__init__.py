"""Softmax attention between tokens: the one dense attention of the house."""

from __future__ import annotations

import jax
from jax.typing import ArrayLike

from ..dispatch import Backend, Op
from .library import attention as _library
from .library import unable
from .reference import attention as _reference
from .reference import attention_with_rows

Array = jax.Array

_OP = Op(
    "attention",
    Backend("reference", _reference),
    Backend("library", _library, automatic=("tpu", "cuda"), unable=unable),
)


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Array:
    """softmax(scale q k^T + bias) v among what is seen; logits and weights in fp32.

    Args:
      q: [M, N, H, Dh].
      k, v: [M, K, G, Dh] and [M, K, G, Dv] of the dtype of q. G divides H: query head h reads
        key head h // (H / G).
      mask: bool, broadcastable to [M, H, N, K]; True where a query sees a key. None: everywhere.
        A query that sees no key gives zeros.
      bias: broadcastable to [M, H, N, K], added to the scaled logits.
      causal: a query does not see later keys; the last query stands at the last key.
      window: a query sees the ``window`` latest keys up to its own place only; needs ``causal``.
      softcap: logits become cap * tanh(logits / cap), before bias and mask.
      scale: of the products; None takes Dh ** -0.5.
      implementation: ``reference`` (two batched products, heads outermost; the fastest on a CPU) or
        ``library`` (``jax.nn.dot_product_attention``); None takes the library on TPU and GPU.

    Returns:
      [M, N, H, Dv].

    Raises:
      KernelError: no such implementation, or one that cannot take these arguments.
      ValueError: the key heads do not divide the query heads, or a window without ``causal``.
    """
    return _OP(
        q,
        k,
        v,
        mask,
        bias,
        causal=causal,
        window=window,
        softcap=softcap,
        scale=scale,
        implementation=implementation,
    )


__all__ = ["attention", "attention_with_rows"]

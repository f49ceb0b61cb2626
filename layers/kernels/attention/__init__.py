"""Softmax attention among the tokens of one frame or clip, all of them to all."""

from __future__ import annotations

import jax

from ..dispatch import Backend, Op
from .library import attention as _library
from .reference import attention as _reference
from .reference import attention_with_rows

Array = jax.Array

_OP = Op(
    "attention",
    Backend("reference", _reference),
    Backend("library", _library, automatic=("tpu", "cuda"), divisible=True),
)


def attention(q: Array, k: Array, v: Array, *, implementation: str | None = None) -> Array:
    """softmax(q k^T / sqrt(Dh)) v, logits and weights in fp32.

    Args:
      q, k, v: [M, N, H, Dh] of one dtype.
      implementation: ``reference`` (two batched products, heads outermost; the fastest on a CPU) or
        ``library`` (``jax.nn.dot_product_attention``); None takes the library on TPU and GPU.

    Returns:
      [M, N, H, Dh].

    Raises:
      KernelError: no such implementation.
    """
    return _OP(q, k, v, implementation=implementation)


__all__ = ["attention", "attention_with_rows"]

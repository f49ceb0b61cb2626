"""Codes of b bits in 32-bit words: little end first and dense, words across for 3 and 5 bits.

Source: vllm-project/compressed-tensors, ``compressors/quantized_compressors/pack_quantized.py``
(``pack_to_int32``): a signed code is stored as code + 2^(b-1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array

WORD = 32


def words(count: int, bits: int) -> int:
    """32-bit words that ``count`` codes of ``bits`` bits take."""
    return -(-count * bits // WORD)


def pack(codes: Array, bits: int, axis: int = -1) -> Array:
    """Signed codes [..., K, ...] -> int32 [..., words(K, bits), ...] along ``axis``."""
    whole = jnp.moveaxis(jnp.asarray(codes, jnp.int32), axis, -1)
    unsigned = (whole + 2 ** (bits - 1)).astype(jnp.uint32)
    count = whole.shape[-1]
    place = np.arange(count) * bits
    lead = whole.shape[:-1]
    packed = jnp.zeros((*lead, words(count, bits) + 1), jnp.uint32)
    offset = (place % WORD).astype(np.uint32)
    packed = packed.at[..., place // WORD].add(unsigned << offset)
    # what does not fit goes to the next word; a shift by 32 is not defined, so in two steps
    rest = (unsigned >> (WORD - 1 - offset)) >> np.uint32(1)
    packed = packed.at[..., place // WORD + 1].add(rest)[..., :-1]
    return jnp.moveaxis(jax.lax.bitcast_convert_type(packed, jnp.int32), -1, axis)


def unpack(packed: Array, bits: int, count: int, axis: int = -1) -> Array:
    """The inverse of :func:`pack`: int8 codes, ``count`` along ``axis``."""
    raw = jax.lax.bitcast_convert_type(jnp.asarray(packed, jnp.int32), jnp.uint32)
    raw = jnp.moveaxis(raw, axis, -1)
    mask = np.uint32(2**bits - 1)
    if WORD % bits == 0:
        shifts = np.arange(0, WORD, bits, dtype=np.uint32)
        whole = ((raw[..., None] >> shifts) & mask).reshape(*raw.shape[:-1], -1)[..., :count]
    else:
        place = np.arange(count) * bits
        offset = (place % WORD).astype(np.uint32)
        padded = jnp.pad(raw, [(0, 0)] * (raw.ndim - 1) + [(0, 1)])
        low = padded[..., place // WORD] >> offset
        high = (padded[..., place // WORD + 1] << np.uint32(1)) << (WORD - 1 - offset)
        whole = (low | high) & mask
    signed = whole.astype(jnp.int32) - 2 ** (bits - 1)
    return jnp.moveaxis(signed.astype(jnp.int8), -1, axis)

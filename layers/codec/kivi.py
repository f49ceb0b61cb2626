"""Keys per channel over blocks of tokens, values per token: how KIVI keeps attention's memory.

A channel of the keys has its own range, in all tokens alike, so a group of one channel over many
tokens loses less than one token over its channels; values have no such channels. A block of tokens
must be there before a channel can be quantised: until then it stays in full precision.

Source: Liu et al., "KIVI" (arXiv 2402.02750); jy-yuan/KIVI, ``quant/new_pack.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array


class Packed(NamedTuple):
    """value = code * scale + least; codes unsigned, 32 / bits to a word, little end first."""

    codes: Array  # int32, the axis of the groups shorter by 32 / bits
    scale: Array  # one for each group, 1 in place of the group
    least: Array  # as scale


def quantise(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """Groups x [..., group] -> (unsigned codes of its shape, scale and least [..., 1])."""
    x = x.astype(jnp.float32)
    least, most = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scale = (most - least) / jnp.float32(2**bits - 1)
    codes = (x - least) / jnp.where(scale > 0, scale, 1)  # of a constant group `least` is all
    return jnp.round(jnp.clip(codes, 0, 2**bits - 1)).astype(jnp.int32), scale, least


def pack(codes: Array, bits: int) -> Array:
    """Unsigned codes [..., K] -> int32 [..., K bits / 32]."""
    parts = codes.reshape(*codes.shape[:-1], -1, 32 // bits).astype(jnp.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    whole = (parts << shifts).sum(-1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(whole, jnp.int32)


def unpack(words: Array, bits: int) -> Array:
    """The inverse of :func:`pack`, int32."""
    shifts = np.arange(0, 32, bits, dtype=np.int32)
    # the top code makes a word negative: the mask takes the sign's copies away
    parts = (words[..., None] >> shifts) & (2**bits - 1)
    return parts.reshape(*words.shape[:-1], -1)


def quantise_keys(keys: Array, bits: int, block: int = 32) -> Packed:
    """keys [..., T, D], T a multiple of ``block``: a scale for every channel of a block
    [..., T / block, 1, D], codes [..., T bits / 32, D]."""
    across = keys.swapaxes(-1, -2)
    parts = across.reshape(*across.shape[:-1], -1, block)
    codes, scale, least = quantise(parts, bits)
    words = pack(codes.reshape(across.shape), bits).swapaxes(-1, -2)
    turn = lambda a: jnp.moveaxis(a, -3, -1)  # [..., D, T / block, 1] -> [..., T / block, 1, D]
    return Packed(words, turn(scale), turn(least))


def dequantise_keys(packed: Packed, bits: int) -> Array:
    """[..., T, D] fp32."""
    codes = unpack(packed.codes.swapaxes(-1, -2), bits)  # [..., D, T]
    blocks = packed.scale.shape[-3]
    parts = codes.reshape(*codes.shape[:-1], blocks, -1).astype(jnp.float32)
    back = lambda a: jnp.moveaxis(a, -1, -3)
    return (parts * back(packed.scale) + back(packed.least)).reshape(codes.shape).swapaxes(-1, -2)


def quantise_values(values: Array, bits: int, group: int = 32) -> Packed:
    """values [..., T, D]: a scale for every ``group`` channels of a token [..., T, D / group, 1],
    codes [..., T, D bits / 32]."""
    parts = values.reshape(*values.shape[:-1], -1, group)
    codes, scale, least = quantise(parts, bits)
    return Packed(pack(codes.reshape(values.shape), bits), scale, least)


def dequantise_values(packed: Packed, bits: int) -> Array:
    """[..., T, D] fp32."""
    codes = unpack(packed.codes, bits)
    parts = codes.reshape(*packed.scale.shape[:-1], -1).astype(jnp.float32)
    return (parts * packed.scale + packed.least).reshape(codes.shape)

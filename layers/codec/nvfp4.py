"""NVFP4: 4-bit floats (E2M1) in blocks of 16, a scale of 8 bits (E4M3) each, one fp32 per tensor.

Bit-exact to torchao's two-level form: block scales are clamped at 2^-6, the smallest normal E4M3
(ModelOpt clamps at 2^-9, compressed-tensors replaces zeros only: blocks that are all zero or below
1 / 28,672 of the tensor's maximum differ between the three).

Source: NVIDIA, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149); pytorch/ao,
``prototype/mx_formats/nvfp4_tensor.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..streaming import Array

BLOCK = 16
LARGEST, SCALE_LARGEST, SCALE_LEAST = 6.0, 448.0, 2.0**-6


class NVFP4(NamedTuple):
    """value = E2M1(nibble) * (scale * whole)."""

    codes: Array  # [..., K / 2] uint8, the even index in the low nibble
    scale: Array  # [..., K / 16] float8_e4m3fn
    whole: Array  # [] fp32, absmax / (448 * 6)


def quantise(x: Array, whole: Array | None = None) -> NVFP4:
    """x [..., K], K a multiple of 16. ``whole`` in place of the tensor's own scale.

    Raises:
      ValueError: K does not divide into blocks.
    """
    if x.shape[-1] % BLOCK:
        raise ValueError(f"NVFP4 has blocks of {BLOCK}: an axis of {x.shape[-1]} does not divide")
    x = jnp.asarray(x, jnp.float32)
    if whole is None:
        own = jnp.abs(x).max() / jnp.float32(SCALE_LARGEST * LARGEST)
        whole = jnp.where(own > 0, own, 1)  # a tensor of zeros
    parts = x.reshape(*x.shape[:-1], -1, BLOCK)
    scale = jnp.abs(parts).max(-1) / jnp.float32(LARGEST) / whole
    scale = jnp.clip(scale, SCALE_LEAST, SCALE_LARGEST).astype(jnp.float8_e4m3fn)
    # a product with the reciprocal, not a division: it decides ties
    factor = (1 / whole) / scale.astype(jnp.float32)
    values = jnp.clip(parts * factor[..., None], -LARGEST, LARGEST)
    return NVFP4(_nibbles(values).reshape(*x.shape[:-1], -1), scale, whole)


def _nibbles(values: Array) -> Array:
    codes = jax.lax.bitcast_convert_type(values.astype(jnp.float4_e2m1fn), jnp.uint4)
    codes = codes.astype(jnp.uint8).reshape(*values.shape[:-1], -1, 2)
    return codes[..., 0] | (codes[..., 1] << 4)


def values_of(nibbles: Array) -> Array:
    """4-bit codes, one in each uint8, -> their fp32 values, by the bits: sign, 2 exponent, 1
    fraction."""
    low = nibbles & 7
    exponent, fraction = (low >> 1).astype(jnp.float32), (low & 1).astype(jnp.float32)
    size = jnp.where(exponent > 0, jnp.exp2(exponent - 1) * (1 + fraction / 2), fraction / 2)
    return jnp.where(nibbles & 8, -size, size)


def dequantise(packed: NVFP4) -> Array:
    """The fp32 values [..., K]."""
    pairs = jnp.stack([packed.codes & 15, packed.codes >> 4], axis=-1)
    lead = packed.codes.shape[:-1]
    parts = values_of(pairs).reshape(*lead, -1, BLOCK)
    own = packed.scale.astype(jnp.float32) * packed.whole
    return (parts * own[..., None]).reshape(*lead, -1)

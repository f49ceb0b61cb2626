"""Streaming layers one after another: their latencies add up."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .streaming import Carry

Array = jax.Array


class Chain(nn.Module):
    """Applies streaming layers in order; latency is the sum of theirs.

    What a layer emits before its first real output (its warm-up) is a gap for the next one, so the
    chain equals the composition of the layers' clip forms. Carry: theirs, and a frame count.
    """

    layers: tuple[Any, ...]

    @property
    def latency(self) -> int:
        return sum(layer.latency for layer in self.layers)

    @nn.nowrap
    def init_carry(self, batch: int, *args: Any) -> Carry:
        """``args`` go to every layer's own ``init_carry`` (tokens, for mixers)."""
        return {
            "layers": tuple(layer.init_carry(batch, *args) for layer in self.layers),
            "count": jnp.zeros((batch,), jnp.int32),
        }

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        """x [B, T, ...], valid [B, T] -> (carry, y [B, T, ...])."""
        keep = jnp.ones(x.shape[:2], bool) if valid is None else valid
        number = carry["count"][:, None] + jnp.cumsum(keep, axis=1, dtype=jnp.int32)  # from 1
        carries, late = [], 0
        for layer, state in zip(self.layers, carry["layers"], strict=True):
            real = keep & (number > late) if late else valid
            state, x = layer(state, x, real)
            carries.append(state)
            late += layer.latency
        return {"layers": tuple(carries), "count": carry["count"] + keep.sum(1, dtype=jnp.int32)}, x

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Array]:
        """The outputs of the last ``latency`` frames of a stream at least that long."""
        carries, rest = [], None
        for layer, state in zip(self.layers, carry["layers"], strict=True):
            parts = []
            if rest is not None:
                state, y = layer(state, rest)
                parts.append(y)
            if layer.latency:
                state, y = layer.flush(state)
                parts.append(y)
            rest = jnp.concatenate(parts, axis=1) if parts else None
            carries.append(state)
        if rest is None:
            raise ValueError("this chain has no latency: there is nothing to flush")
        return {"layers": tuple(carries), "count": carry["count"]}, rest

"""One layer's part of a memory that all layers of a scanned stack keep in one array.

A mixer that names fields of its carry in ``in_place`` is given these as a :class:`Layer`, and gives
them back as one: it reads and writes its own part where it lies. What is sliced out and
written back instead is copied twice, around every kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Layer(NamedTuple):
    stack: Array  # [B, L, ...] of all layers
    at: Array  # int32, which one is meant

    def read(self, fused: bool = False) -> Array:
        """Its part [B, ...].

        On a CPU it stands in an array of its own. Fused into whoever uses it, as XLA likes, it
        would be read again after the stack was written, and XLA then copies the stack in every
        layer; it never fuses what a branch gives. ``fused`` is for what is written first and only
        then read.
        """

        def part(stack: Array, index: Array) -> Array:
            return jax.lax.dynamic_index_in_dim(stack, index, 1, keepdims=False)

        def apart(stack: Array, index: Array) -> Array:
            none = lambda stack, _: jnp.zeros((stack.shape[0], *stack.shape[2:]), stack.dtype)
            return jax.lax.cond(index >= 0, part, none, stack, index)

        if fused:
            return part(self.stack, self.at)
        return jax.lax.platform_dependent(self.stack, self.at, cpu=apart, default=part)

    def write(self, new: Array) -> Layer:
        """The stack with this part [B, ...] in it."""
        new = new.astype(self.stack.dtype)
        return Layer(jax.lax.dynamic_update_index_in_dim(self.stack, new, self.at, 1), self.at)

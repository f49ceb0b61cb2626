"""A streaming module for each of the slots that objects come to and leave.

    along = PerSlot(module)
    carry = along.init_carry(batch, slots)
    carry, y = along(carry, x, held, seen)       # x: leaves [B, T, S, ...]

``module`` is any module of latency 0 that follows the carry law. A slot's state begins anew
whenever the slot changes hands, so what comes out for an object is what the module says of that
object alone, whoever had the slot before. Frames in which the object is not seen are gaps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .exportable import exportable
from .gaps import hold
from .streaming import Carry

Array = jax.Array


@exportable
class SlotState(NamedTuple):
    """The carry."""

    holder: Array  # [B, S] int32, whose state it is; 0 for nobody's
    inner: Carry  # of the module, leaves [B, S, ...]


class PerSlot(nn.Module):
    """Runs ``module`` along every slot. Latency 0; slots do not see each other."""

    module: Any
    latency = 0

    @nn.nowrap
    def init_carry(self, batch: int, slots: int) -> SlotState:
        """Nobody in any slot."""
        fresh = self.module.init_carry(batch * slots)
        inner = jax.tree.map(lambda a: a.reshape(batch, slots, *a.shape[1:]), fresh)
        return SlotState(jnp.zeros((batch, slots), jnp.int32), inner)

    def __call__(
        self, carry: SlotState, x: Any, held: Array, seen: Array, valid: Array | None = None
    ) -> tuple[SlotState, Any]:
        """Goes through T frames.

        Args:
          carry: as :meth:`init_carry` or the last call gave it.
          x: what the module takes, leaves [B, T, S, ...].
          held: [B, T, S] int32, the id of the object whose slot it is, also while it is not seen;
            0 for nobody's. An id that comes to a slot finds no state of another there, nor its own
            from before the slot was nobody's.
          seen: [B, T, S] bool, the object is in this frame; else, and where nobody holds the slot,
            the module sees a gap.
          valid: [B, T] bool, False for frames that never came, which leave everything as it was.

        Returns:
          (carry, y): the module's outputs, leaves [B, T, S, ...].
        """
        pieces = (x, held, seen, valid)
        if held.shape[1] == 1:
            carry, y = self._frame(carry, jax.tree.map(lambda a: a[:, 0], pieces))
            return carry, jax.tree.map(lambda a: a[:, None], y)
        scan = nn.scan(
            PerSlot._frame,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        return scan(self, carry, pieces)

    def _frame(self, carry: SlotState, piece: tuple) -> tuple[SlotState, Any]:
        x, held, seen, came = piece
        batch, slots = held.shape
        if came is not None:
            held, seen = jnp.where(came[:, None], held, carry.holder), seen & came[:, None]
        seen = seen & (held != 0)
        rows = lambda tree: jax.tree.map(lambda a: a.reshape(batch * slots, *a.shape[2:]), tree)
        fresh = self.module.init_carry(batch * slots)
        inner = hold(rows(carry.inner), fresh, (held == carry.holder).reshape(-1))
        # each slot is a stream of one token
        one = jax.tree.map(lambda a: a[:, None, None], rows(x))
        inner, y = self.module(inner, one, seen.reshape(-1, 1))
        back = lambda tree: jax.tree.map(lambda a: a.reshape(batch, slots, *a.shape[1:]), tree)
        y = jax.tree.map(lambda a: a[:, :, 0, 0], back(y))
        return SlotState(held, back(inner)), y

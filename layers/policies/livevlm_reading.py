"""How one layer reads under LiveVLM: as tokens come, and when it is asked.

Source: as of :mod:`.livevlm`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..kernels.attention import attention
from ..memory import Reader, Rotary, View
from ..positions import rotate_halves
from ..streaming import Array
from .livevlm_rows import Choice, Rows, Turn


def _turner(rotary: Rotary, turned: Array, base: Array) -> Turn:
    """A function that turns x [B, N, H, Dh] which stands at place [B, N, A], relative to ``base``
    [B]: small numbers have exact angles."""

    def turn(x: Array, place: Array) -> Array:
        cos, sin = rotary.angles((place - base[:, None, None])[:, :, None])
        return jnp.where(turned, rotate_halves(x, cos, sin).astype(x.dtype), x)

    return turn


def _layer(whole: Any, index: Array) -> Any:
    one = lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False)
    return whole._replace(
        rows=jax.tree.map(one, whole.rows),
        turned=jax.lax.dynamic_index_in_dim(whole.turned, index, 0, keepdims=False),
    )


class Choosing(NamedTuple):
    """The rows of one layer, or of all, as new tokens come: serial [B, T], place [B, T, A],
    valid [B, T], base [B]."""

    policy: Choice
    rows: Rows
    serial: Array
    place: Array
    valid: Array
    base: Array
    rotary: Rotary
    turned: Array

    def layer(self, index: Array) -> Choosing:
        return _layer(self, index)

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Rows, tuple[()]]:
        """As of :class:`Reader`; what to keep are the rows of the layer."""
        policy = self.policy
        first, begin = policy.sinks, policy.sinks + policy.long
        turn = _turner(self.rotary, self.turned, self.base)
        stream = jnp.arange(len(q))

        def come(rows: Rows, now):
            q, k, v, serial, place, there = now
            behind = serial - first
            full = there & (behind > 0) & (behind % policy.recent == 0)
            smaller = lambda: policy.compress(rows, behind, turn)
            less = jax.lax.cond(full.any(), smaller, lambda: rows)
            pick = lambda new, old: jnp.where(full.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
            rows = jax.tree.map(pick, less, rows)
            slot = jnp.where(serial < first, serial, begin + behind % policy.recent)
            slot = jnp.where(there, slot, policy.capacity)
            ask = jnp.where(there, serial % policy.asked, policy.asked)
            put = lambda old, at, new: old.at[stream, at].set(new.astype(old.dtype), mode="drop")
            rows = Rows(
                put(rows.keys, slot, k), put(rows.values, slot, v), put(rows.serial, slot, serial),
                put(rows.place, slot, place), put(rows.asked, ask, q),
                put(rows.asked_place, ask, place), put(rows.asked_serial, ask, serial),
            )  # fmt: skip
            y = attention(
                turn(q[:, None], place[:, None]),
                turn(rows.keys.astype(q.dtype), rows.place),
                rows.values.astype(q.dtype),
                mask=(rows.serial >= 0)[:, None, None] & there[:, None, None, None],
                softcap=softcap,
            )
            return rows, y[:, 0]

        over = (q, k, v, self.serial, self.place, self.valid)
        rows, y = jax.lax.scan(come, self.rows, tuple(a.swapaxes(0, 1) for a in over))
        return y.swapaxes(0, 1), rows, ()


class Recalling(NamedTuple):
    """The rows of one layer, or of all, that a question reads; it finds them itself."""

    policy: Choice
    rows: Rows
    base: Array
    valid: Array
    rotary: Rotary
    turned: Array

    def layer(self, index: Array) -> Recalling:
        return _layer(self, index)

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, tuple[Array, Array], Array]:
        """As of :class:`Reader`; to keep: the rows and the question's, and which of them it
        read."""
        rows, valid = self.rows, self.valid
        read = self.policy.pages(q, rows.keys, rows.serial, valid)
        steps = valid.shape[1]
        own = jnp.tril(jnp.ones((steps, steps), bool))[None] & valid[:, None]
        past = jnp.broadcast_to(read[:, None], (len(q), steps, read.shape[1]))
        seen = jnp.concatenate([past, own], axis=2) & valid[..., None]
        asked = jnp.cumsum(valid, axis=1, dtype=jnp.int32)[..., None] - 1
        asked = jnp.broadcast_to(asked, (*valid.shape, rows.place.shape[-1]))
        places = jnp.concatenate([rows.place - self.base[:, None, None], asked], axis=1)
        view = View(seen, places, asked[:, :, None])
        every = Reader.of(
            rows.keys[:, None], rows.values[:, None], view, self.rotary, self.turned[None]
        )
        y, _, _ = every.layer(jnp.int32(0))(q, k, v, softcap)
        read = jnp.concatenate([read, valid], axis=1)
        both = lambda old, new: jnp.concatenate([old.astype(new.dtype), new], axis=1)
        return y, (both(rows.keys, k), read), both(rows.values, v)

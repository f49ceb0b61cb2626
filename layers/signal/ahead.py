"""Transformer blocks over time that look ahead by recomputing: every layer sees what comes next.

Source: Shi et al., "Emformer" (arXiv 2010.10759), section 2.2: a hop of frames passes all blocks
together with the ``ahead`` frames behind it, which are computed again when their own hop comes. So
look-ahead does not grow with depth, and the last frame of a hop has as much of it as ``ahead``
says; in blocks without it (:class:`~.chunks.BlockCausal`) the last frame of a chunk has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, window_at, zero_invalid
from ..streaming import Array, Carry
from ..transformer.attention import Rope, rotate
from .chunks import Attending
from .emitted import Emitted

Turns = Callable[[Array], Rope]


class Placed(Attending):
    """Pre-norm attention and MLP with rotary positions; keys are kept as they were projected, so
    places can be counted from any frame."""

    @nn.nowrap
    def kept(self, batch: int, past: int) -> Array:
        """What a stream that has heard nothing remembers, [B, past, 2, H, Dh]."""
        return self.init_carry(batch, past)["past"]

    def read(self, past: Array, x: Array, rope: Rope, mask: Array) -> tuple[Array, Array]:
        """x [B, F, D] behind past [B, P, 2, H, Dh] -> (y [B, F, D], keys and values of x).

        rope: (cos, sin) of the places of P + F frames. mask: [B, F, P + F].
        """
        q, k, v = self.attn.project(self.norm1(x))
        own = jnp.stack([k, v], axis=2)
        both = jnp.concatenate([past, own], axis=1)
        cos, sin = rope
        q = rotate(q, cos[-x.shape[1] :], sin[-x.shape[1] :])
        y, _ = self.attn.attend(
            q, rotate(both[:, :, 0], cos, sin), both[:, :, 1], mask=mask[:, None]
        )
        x = x + y
        return x + self.mlp(self.norm2(x)), own

    def hops(self, x: Array, hop: int, rope: Rope, mask: Array) -> Array:
        """All hops of a clip, x [B, N, hop + ahead, D] -> the same.

        rope: of N * (hop + ahead) frames. mask: [B * N, hop + ahead, keys], the keys of the hops'
        own frames, N * hop, and then of the frames that a hop sees ahead.
        """
        batch, count, span, dim = x.shape
        flat = x.reshape(batch, count * span, dim)
        q, k, v = self.attn.project(self.norm1(flat), rope)

        # frames of hops are the keys of all, so they are not copied to every hop: two products of
        # scores, one softmax
        heads, width = q.shape[2:]
        hopped = lambda a: a.reshape(batch, count, span, *a.shape[2:])
        own = lambda a: hopped(a)[:, :, :hop].reshape(batch, count * hop, *a.shape[2:])
        behind = lambda a: hopped(a)[:, :, hop:]
        q = hopped(q).reshape(batch, count, span, k.shape[2], -1, width) / np.sqrt(width)
        scores = [
            jnp.einsum("bnsgrd,bkgd->bngrsk", q, own(k)),
            jnp.einsum("bnsgrd,bnkgd->bngrsk", q, behind(k)),
        ]
        mask = mask.reshape(batch, count, 1, 1, span, -1)
        rows = jnp.where(mask, jnp.concatenate(scores, axis=-1).astype(jnp.float32), -jnp.inf)
        rows = jax.nn.softmax(rows, axis=-1).astype(v.dtype)
        y = jnp.einsum("bngrsk,bkgd->bnsgrd", rows[..., : count * hop], own(v))
        y = y + jnp.einsum("bngrsk,bnkgd->bnsgrd", rows[..., count * hop :], behind(v))
        y = self.attn.out(y.reshape(-1, heads * width))
        x = x + y.reshape(x.shape)
        return x + self.mlp(self.norm2(x))


class Ahead(nn.Module):
    """Blocks over hops, [B, T, D] -> [B, F, D]: a frame sees ``past`` frames before its hop, its
    hop, and the ``ahead`` frames behind it, in every block.

    Attributes:
      blocks: what is passed, one after the other.
      turns: places -> (cos, sin), of rotary positions.
      hop: frames that are final together.
      ahead: frames behind a hop that it sees.
      past: frames before it that are remembered.
    """

    blocks: tuple[Placed, ...]
    turns: Turns
    hop: int
    ahead: int
    past: int

    rate = Fraction(1)

    @property
    def latency(self) -> int:
        return self.hop + self.ahead - 1

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.latency)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, count - self.ahead) // self.hop * self.hop

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late + self.latency

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Carry]:
        c = self.blocks[0].config
        return {
            "past": tuple(block.kept(batch, self.past) for block in self.blocks),
            "seen": jnp.zeros((batch,), jnp.int32),  # frames of the past, ``past`` at most
            "queue": jnp.zeros((batch, self.latency, c.dim), c.dtype),
            "waiting": jnp.zeros((batch,), jnp.int32),  # frames of the queue
        }

    def __call__(
        self, carry: dict[str, Carry], x: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """x [B, T, D], valid [B, T] -> (carry, Emitted [B, F, D])."""
        batch, steps = x.shape[:2]
        here = jnp.ones((batch, steps), bool) if valid is None else valid
        held = jnp.arange(self.latency)[None] < carry["waiting"][:, None]
        queue = carry["queue"]
        dense = compact(
            jnp.concatenate([queue, x.astype(queue.dtype)], axis=1),
            jnp.concatenate([held, here], axis=1),
        )
        ready = jnp.maximum(dense.fresh - self.ahead, 0) // self.hop
        hops = (steps + self.hop - 1) // self.hop
        y, carry = self._hops(carry, dense.x, dense.fresh, ready, hops)
        out = jnp.arange(hops * self.hop)[None]
        there = out < (ready * self.hop)[:, None]
        # a frame is there when the last one that its hop sees is
        last = out // self.hop * self.hop + self.latency
        last = jnp.broadcast_to(jnp.minimum(last, dense.order.shape[1] - 1), there.shape)
        at = jnp.maximum(jnp.take_along_axis(dense.order, last, axis=1) - self.latency, 0)
        room = jnp.pad(dense.x, ((0, 0), (0, self.latency), (0, 0)))
        carry = carry | {
            "queue": window_at(room, ready * self.hop, self.latency),
            "waiting": dense.fresh - ready * self.hop,
        }
        return carry, Emitted(y, there, jnp.where(there, at, 0))

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted | None]:
        """The frames that waited for others, which will not come."""
        if not self.latency:
            return carry, None
        waiting, queue = carry["waiting"], carry["queue"]
        hops = math.ceil(self.latency / self.hop)
        y, carry = self._hops(carry, queue, waiting, -(-waiting // self.hop), hops)
        here = jnp.arange(hops * self.hop)[None] < waiting[:, None]
        carry = carry | {"waiting": jnp.zeros_like(waiting)}
        return carry, Emitted(zero_invalid(y, here), here, jnp.zeros(here.shape, jnp.int32))

    def clip(self, x: Array, count: Array) -> Array:
        """A whole stream at once: x [B, F, D], of which ``count`` [B] frames are there -> y."""
        batch, frames, dim = x.shape
        hops, span = -(-frames // self.hop), self.hop + self.ahead
        whole = hops * self.hop
        of = np.arange(hops)[:, None] * self.hop + np.arange(span)[None]  # [hops, span]
        x = jnp.pad(x, ((0, 0), (0, whole + self.ahead - frames), (0, 0)))[:, of]
        # a hop's keys: all frames as their own hops have them, then what it sees ahead of itself
        places = np.concatenate(
            [np.broadcast_to(np.arange(whole), (hops, whole)), of[:, self.hop :]], 1
        )
        apart = np.arange(hops)[:, None] * self.hop - places
        near = (apart > -self.hop) & (apart <= self.past)
        near[:, whole:] = True
        mask = jnp.asarray(near)[None] & (jnp.asarray(places)[None] < count[:, None, None])
        mask = jnp.broadcast_to(mask[:, :, None], (batch, hops, span, whole + self.ahead))
        first = np.arange(whole + self.ahead)[None, None] == of[:, :1, None]  # not there: not NaN
        mask = (mask | first).reshape(batch * hops, span, -1)
        turns = self.turns(jnp.arange(whole + self.ahead))
        rope = jax.tree.map(lambda a: a[of.reshape(-1)], turns)
        for block in self.blocks:
            x = block.hops(x, self.hop, rope, mask)
        return x[:, :, : self.hop].reshape(batch, whole, dim)[:, :frames]

    def _hops(self, carry: dict[str, Carry], x: Array, count: Array, ready: Array, hops: int):
        """``ready`` [B] hops, of ``hops`` that can be, of x [B, N, D] whose first ``count`` frames
        are there -> (y [B, hops * hop, D], carry)."""
        span = self.hop + self.ahead
        x = jnp.pad(x, ((0, 0), (0, max(0, hops * self.hop + self.ahead - x.shape[1])), (0, 0)))
        starts = np.arange(hops) * self.hop
        windows = x[:, starts[:, None] + np.arange(span)[None]].swapaxes(0, 1)  # [hops, B, span, D]
        there = jnp.asarray(starts)[:, None, None] + jnp.arange(span)[None, None]
        there = there < count[None, :, None]
        due = jnp.asarray(np.arange(hops))[:, None] < ready[None]
        rope = self.turns(jnp.arange(-self.past, span))

        def one(self, state, given):
            window, there, due = given
            through = lambda self, state: self._through(state, window, there, due, rope)
            waits = lambda self, state: (state, jnp.zeros_like(window[:, : self.hop]))
            if self.is_initializing():
                return through(self, state)
            return nn.cond(jnp.any(due), through, waits, self, state)

        state = (carry["past"], carry["seen"])
        if hops == 1:
            state, y = one(self, state, (windows[0], there[0], due[0]))
            y = y[None]
        else:
            scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
            state, y = scan(self, state, (windows, there, due))
        y = y.swapaxes(0, 1).reshape(x.shape[0], hops * self.hop, x.shape[2])
        return y, carry | {"past": state[0], "seen": state[1]}

    def _through(self, state: Any, x: Array, there: Array, due: Array, rope: Rope):
        """One hop and what is ahead of it, x [B, hop + ahead, D], through all blocks."""
        pasts, seen = state
        before = jnp.arange(self.past)[None] >= self.past - seen[:, None]
        keys = jnp.concatenate([before, there], axis=1)[:, None]
        # a frame that is not there sees itself, not NaN
        mask = keys | np.eye(x.shape[1], keys.shape[2], self.past, dtype=bool)[None]
        x, after = zero_invalid(x, there), []
        own = (there[:, : self.hop] & due[:, None]).sum(axis=1, dtype=jnp.int32)
        for block, past in zip(self.blocks, pasts, strict=True):
            x, new = block.read(past, x, rope, mask)
            both = jnp.concatenate([past, new[:, : self.hop]], axis=1)
            after.append(window_at(both, own, self.past))
        seen = jnp.minimum(seen + own, self.past)
        return (tuple(after), seen), zero_invalid(x, there & due[:, None])[:, : self.hop]

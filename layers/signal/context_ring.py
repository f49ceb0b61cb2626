"""Features of short pieces of sound in the context of all that the last seconds held.

Source: Soul-AILab/SoulX-FlashHead, generate_video.py (Apache-2.0, commit 12467ce): a ring of 8 s at
16 kHz that begins with silence; with every 24 pictures its encoder hears the whole ring again, and
of the features, 25 a second, the last 33 are taken, each with two neighbours on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, window_at, zero_invalid
from ..streaming import Array, Carry
from .emitted import Emitted


class ContextRing(nn.Module):
    """[B, T] samples -> features of the newest piece, every ``step`` samples ``take`` of them.

    Attributes:
      encode: [B, window] samples -> [B, F, D], an offline encoder of one length.
      window: samples that it hears, silence where there was nothing yet.
      step: samples between two hearings.
      take: features at the end of each hearing that are given.
      neighbours: features on both sides of each that are given with it, those beyond the ends the
        first or the last.
    """

    encode: Callable[[Array], Array]
    window: int
    step: int
    take: int
    neighbours: int = 0

    @property
    def rate(self) -> Fraction:
        return Fraction(self.take, self.step)

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.latency)

    @property
    def latency(self) -> int:
        return self.step - 1

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return count // self.step * self.take

    @nn.nowrap
    def length(self, count: int) -> int:
        return -(-count // self.step) * self.take

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return -(-(late + self.latency) // self.step) * self.take

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        return {
            "ring": jnp.zeros((batch, self.window)),
            "rest": jnp.zeros((batch, self.step - 1)),
            "waiting": jnp.zeros((batch,), jnp.int32),  # samples of the rest
        }

    def __call__(
        self, carry: dict[str, Carry], audio: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """audio [B, T], valid [B, T] -> (carry, Emitted [B, F, 2 neighbours + 1, D])."""
        batch, steps = audio.shape
        here = jnp.ones((batch, steps), bool) if valid is None else valid
        held = jnp.arange(self.step - 1)[None] < carry["waiting"][:, None]
        dense = compact(
            jnp.concatenate([carry["rest"], audio], axis=1),
            jnp.concatenate([held, here], axis=1),
        )
        pieces, ready = (steps + self.step - 1) // self.step, dense.fresh // self.step
        ring = jnp.concatenate([carry["ring"], dense.x], axis=1)
        heard = [self._last(window_at(ring, jnp.full(batch, (i + 1) * self.step), self.window))
                 for i in range(pieces)]  # fmt: skip
        out = jnp.stack(heard, axis=1)
        there = jnp.arange(pieces)[None] < ready[:, None]
        out = zero_invalid(out.reshape(batch, pieces * self.take, *out.shape[3:]),
                           jnp.repeat(there, self.take, axis=1))  # fmt: skip
        last = (np.arange(pieces) + 1) * self.step - 1
        at = jnp.maximum(dense.order[:, last] - (self.step - 1), 0)
        at = jnp.repeat(jnp.where(there, at, 0), self.take, axis=1)
        room = jnp.pad(dense.x, ((0, 0), (0, self.step - 1)))
        carry = {
            "ring": window_at(ring, ready * self.step, self.window),
            "rest": window_at(room, ready * self.step, self.step - 1),
            "waiting": dense.fresh - ready * self.step,
        }
        return carry, Emitted(out, jnp.repeat(there, self.take, axis=1), at)

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted]:
        """The features of what waits, silence behind it to the end of its step."""
        left = self.step - carry["waiting"]
        there = jnp.arange(self.step)[None] < carry["waiting"][:, None]
        rest = jnp.where(there, jnp.pad(carry["rest"], ((0, 0), (0, 1))), 0.0)
        ring = jnp.concatenate([carry["ring"], rest], axis=1)[:, self.step :]
        out = self._last(ring)
        some = jnp.broadcast_to((left < self.step)[:, None], out.shape[:2])
        carry = carry | {"ring": ring, "waiting": jnp.zeros_like(left)}
        return carry, Emitted(zero_invalid(out, some), some, jnp.zeros(some.shape, jnp.int32))

    def _last(self, ring: Array) -> Array:
        """ring [B, window] -> [B, take, 2 neighbours + 1, D]."""
        x = self.encode(ring)
        frames = x.shape[1]
        near = np.arange(-self.neighbours, self.neighbours + 1)
        places = np.arange(frames - self.take, frames)[:, None] + near
        return x[:, np.clip(places, 0, frames - 1)]


def resampled(x: Array, frames: int) -> Array:
    """x [B, F, D] -> [B, frames, D], between neighbours by line, first and last as they are."""
    place = np.linspace(0, x.shape[1] - 1, frames)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, x.shape[1] - 1)
    share = jnp.asarray(place - low, x.dtype)[None, :, None]
    return x[:, low] * (1 - share) + x[:, high] * share

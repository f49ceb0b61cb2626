"""Tokens of sound and of pictures as one series, in the order of their times.

The plain form of audio-visual models: encoders of their own, whose features a language model reads
one after the other. Here they come at their own rates and late as they like; a token is passed on
when the other kind has come as far, so the series does not depend on what arrived first.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .exportable import exportable
from .streaming import Array, Carry
from .time_positions import RATE

NEVER = jnp.inf


@exportable
class Stitched(NamedTuple):
    """Tokens in order; those that are not valid hold zeros."""

    x: Array  # [B, N, D]
    time: Array  # [B, N] float32 seconds
    sound: Array  # [B, N] bool: of sound, else of a picture
    valid: Array  # [B, N] bool

    def positions(self, rate: float = RATE) -> Array:
        """Where each stands on the axis of time, [B, N]: the same number at the same moment,
        whatever its kind (Qwen3-Omni, arXiv 2509.17765, section 2.3)."""
        return self.time * rate


class Stitch:
    """Merges two streams of tokens [B, T, D] with times [B, T] that do not fall.

    Of one moment the picture comes first. A kind that has ended, or never sends, is waved on by its
    clock: ``sound_to`` or ``pictures_to`` say that nothing older will come.

    Args:
      dim: D.
      room: tokens of each kind that wait for the other at most; what comes on top pushes out the
        oldest, which are counted in ``carry["lost"]``.
    """

    def __init__(self, dim: int, room: int = 64):
        self.dim, self.room = dim, room

    def init_carry(self, batch: int) -> dict[str, Carry]:
        """Streams of which nothing has come."""
        one = lambda: {
            "x": jnp.zeros((batch, self.room, self.dim)),
            "time": jnp.full((batch, self.room), NEVER),  # of those that do not wait
            "clock": jnp.full((batch,), -NEVER),
        }
        return {"pictures": one(), "sound": one(), "lost": jnp.zeros((batch,), jnp.int32)}

    def __call__(
        self,
        carry: dict[str, Carry],
        pictures: tuple[Array, Array],
        sound: tuple[Array, Array],
        pictures_to: Array | float = -jnp.inf,
        sound_to: Array | float = -jnp.inf,
    ) -> tuple[dict[str, Carry], Stitched]:
        """(tokens [B, T, D], times [B, T]) of each kind, any T, times that are NaN for tokens that
        did not come -> (carry, Stitched [B, 2 room + T + T, D])."""
        kinds = (carry["pictures"], carry["sound"])
        waits, clocks = [], []
        for kept, (x, time), to in zip(kinds, (pictures, sound), (pictures_to, sound_to),
                                       strict=True):  # fmt: skip
            time = jnp.where(jnp.isnan(time), NEVER, time)
            newest = jnp.max(jnp.where(jnp.isinf(time), -NEVER, time), axis=1, initial=-NEVER)
            clocks.append(jnp.maximum(jnp.maximum(kept["clock"], newest), to))
            x = jnp.concatenate([kept["x"], x], axis=1)
            waits.append((x, jnp.concatenate([kept["time"], time], axis=1)))
        (seen, seen_at), (heard, heard_at) = waits
        x, time = jnp.concatenate([seen, heard], 1), jnp.concatenate([seen_at, heard_at], 1)
        is_sound = jnp.broadcast_to(jnp.arange(x.shape[1])[None] >= seen.shape[1], time.shape)
        # a picture may still come at the very moment of the other's clock and goes first
        due = jnp.where(is_sound, time < clocks[0][:, None], time <= clocks[1][:, None])
        due = due & (time < NEVER)
        order = jnp.argsort(jnp.where(due, time, NEVER), axis=1, stable=True)
        pick = lambda a: jnp.take_along_axis(
            a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), 1
        )
        valid = pick(due)
        clear = lambda a: jnp.where(valid.reshape(*valid.shape, *(1,) * (a.ndim - 2)), a, 0)
        out = Stitched(clear(pick(x)), clear(pick(time)), pick(is_sound) & valid, valid)
        split = seen.shape[1]
        after, lost = [], carry["lost"]
        for (x, time), gone, clock in zip(waits, (due[:, :split], due[:, split:]), clocks,
                                          strict=True):  # fmt: skip
            left = jnp.where(gone, NEVER, time)
            count = (left < NEVER).sum(axis=1)
            # the newest ``room`` of those that wait, oldest first
            rank = jnp.argsort(left, axis=1, stable=True)
            start = jnp.maximum(count - self.room, 0)
            place = start[:, None] + jnp.arange(self.room)[None]
            index = jnp.take_along_axis(rank, jnp.minimum(place, rank.shape[1] - 1), axis=1)
            there = place < count[:, None]
            kept_time = jnp.where(there, jnp.take_along_axis(left, index, axis=1), NEVER)
            kept_x = jnp.where(there[..., None], jnp.take_along_axis(x, index[..., None], 1), 0)
            after.append({"x": kept_x, "time": kept_time, "clock": clock})
            lost = lost + start.astype(jnp.int32)
        return {"pictures": after[0], "sound": after[1], "lost": lost}, out

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Stitched]:
        """All that waits; nothing comes after it."""
        batch = carry["lost"].shape[0]
        none = (jnp.zeros((batch, 0, self.dim)), jnp.zeros((batch, 0)))
        end = float(np.finfo(np.float32).max)
        return self(carry, none, none, pictures_to=end, sound_to=end)

"""A small reader of pictures and sound as one series: the model of ``train/sounding.py``."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ...layers.stitch import Stitch
from ...layers.streaming import Array

FRAME_RATE, SOUND_RATE = 5.0, 13.0  # tokens per second


class Sounding(nn.Module):
    """Tokens of both kinds in the order of their times, read one after the other -> the side.

    Attributes:
      dim: width.
      without: a kind that is left out.
    """

    dim: int = 48
    without: str = ""

    @nn.compact
    def __call__(self, pictures: Array, sound: Array) -> Array:
        """pictures [B, F, 2, 4, 3], sound [B, S, bands] -> logits [B, 2]."""
        batch, frames, steps = pictures.shape[0], pictures.shape[1], sound.shape[1]
        seen = nn.Dense(self.dim, name="sees")(pictures.reshape(batch, frames, -1))
        heard = nn.Dense(self.dim, name="hears")(sound)
        wide = lambda times: jnp.broadcast_to(jnp.asarray(times, jnp.float32), (batch, len(times)))
        shown, said = wide(np.arange(frames) / FRAME_RATE), wide(np.arange(steps) / SOUND_RATE)
        none = jnp.nan
        shown = shown * (none if self.without == "pictures" else 1.0)
        said = said * (none if self.without == "sound" else 1.0)
        stitch = Stitch(self.dim, room=1)
        end = float(np.finfo(np.float32).max)
        _, out = stitch(stitch.init_carry(batch), (seen, shown), (heard, said), end, end)
        kind = nn.Embed(2, self.dim, name="kind")(out.sound.astype(jnp.int32))
        x = nn.relu(out.x + kind)
        order = jnp.argsort(~out.valid, axis=1, stable=True)  # those that are there are first
        x = jnp.take_along_axis(x, order[..., None], axis=1)[:, : frames + steps]
        lengths = out.valid.sum(axis=1)
        carry, _ = nn.RNN(nn.GRUCell(self.dim), return_carry=True)(x, seq_lengths=lengths)
        return nn.Dense(2)(carry)

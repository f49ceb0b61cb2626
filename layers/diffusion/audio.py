"""Sound as a condition of generated frames: a causal encoder, its rate, and a window per frame.

Wan 2.2's speech-to-video hooks as Live Avatar uses them (Alibaba-Quark/LiveAvatar,
wan_2_2/modules/s2v/audio_utils.py and audio_encoder.py, at commit 9c2c38d). The features come from
a speech encoder, layer by layer; latent frames take a quarter of their rate.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, zero_invalid
from ..ranks import to_rank
from ..signal import Conv, Each, Series
from ..signal.emitted import Emitted
from ..streaming import Array, Carry


class FirstRepeated(nn.Module):
    """A causal convolution that sees its first input again in place of what came before it."""

    conv: Conv

    @property
    def rate(self) -> Fraction:
        return self.conv.rate

    @property
    def lookahead(self) -> Fraction:
        return self.conv.lookahead

    latency = 0

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return self.conv.emitted(count)

    @nn.nowrap
    def length(self, count: int) -> int:
        return self.conv.length(count)

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return self.conv.delay(late)

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Carry]:
        return {"conv": self.conv.init_carry(batch), "begun": jnp.zeros((batch,), bool)}

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        dense = compact(x, valid)
        begins = ~carry["begun"] & (dense.fresh > 0)
        tail = carry["conv"]["tail"]
        tail = jnp.where(begins[:, None, None], dense.x[:, :1].astype(tail.dtype), tail)
        conv, out = self.conv({**carry["conv"], "tail": tail}, x, valid)
        return {"conv": conv, "begun": carry["begun"] | begins}, out

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], None]:
        """Nothing waits."""
        return carry, None


class PerHead(FirstRepeated):
    """One such convolution for every head: [B, T, heads * C] -> [B, F, heads * O]."""

    heads: int = 1

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Carry]:
        one = super().init_carry(batch)
        return {f"{i}": one for i in range(self.heads)}

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        after, outs = {}, []
        for i, part in enumerate(jnp.split(x, self.heads, axis=-1)):
            after[f"{i}"], out = super().__call__(carry[f"{i}"], part, valid)
            outs.append(out)
        return after, outs[0]._replace(x=jnp.concatenate([o.x for o in outs], axis=-1))


def _normal(heads: int) -> Each:
    """Each head by itself to mean 0 and variance 1, then SiLU."""

    def of(x: Array) -> Array:
        parts = x.reshape(*x.shape[:-1], heads, -1)
        mean = parts.mean(axis=-1, keepdims=True)
        square = jnp.square(parts - mean).mean(axis=-1, keepdims=True)
        return nn.silu((parts - mean) * jax.lax.rsqrt(square + 1e-6)).reshape(x.shape)

    return Each(of)


class CausalAudioEncoder(nn.Module):
    """Features [B, T, layers, D] of a speech encoder -> tokens [B, F, heads + 1, O], F = T / 4.

    The last token is learned and the same for every frame. Frame f is there with feature 4 f.
    """

    dim: int
    layers: int
    out_dim: int
    heads: int
    latency = 0
    rate = Fraction(1, 4)
    lookahead = Fraction(0)

    @nn.nowrap
    def _body(self, parent: Any) -> Series:
        wide, heads = self.out_dim, self.heads
        conv = lambda a, b, stride: Conv(a, b, 3, stride, (2, 0), parent=None)
        return Series(
            (
                FirstRepeated(conv(self.dim, wide // 4 * heads, 1), parent=None),
                _normal(heads),
                PerHead(conv(wide // 4, wide // 2, 2), heads=heads, parent=None),
                _normal(heads),
                PerHead(conv(wide // 2, wide, 2), heads=heads, parent=None),
                _normal(heads),
            ),
            parent=parent,
        )

    def setup(self):
        self.body = self._body(self)
        init = nn.initializers.constant(0.01)
        self.weights = self.param("weights", init, (self.layers,))
        self.padding = self.param("padding", nn.initializers.zeros, (self.out_dim,))

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        return self._body(None).init_carry(batch)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return self._body(None).emitted(count)

    @nn.nowrap
    def length(self, count: int) -> int:
        return self.emitted(count)

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return self._body(None).delay(late)

    def __call__(self, carry: Carry, x: Array, valid: Array | None = None) -> tuple[Carry, Emitted]:
        share = nn.silu(self.weights)
        x = zero_invalid(x, valid)
        mixed = (x * to_rank(share[:, None], x)).sum(axis=2) / share.sum()
        carry, out = self.body(carry, mixed, valid)
        tokens = out.x.reshape(*out.x.shape[:2], self.heads, self.out_dim)
        shape = (*out.x.shape[:2], 1, self.out_dim)
        padding = jnp.broadcast_to(to_rank(self.padding, tokens), shape).astype(tokens.dtype)
        tokens = jnp.concatenate([tokens, padding], axis=2)
        return carry, out._replace(x=zero_invalid(tokens, out.valid))

    def flush(self, carry: Carry) -> tuple[Carry, None]:
        """Nothing waits."""
        return carry, None


def resample(features: Array, source: float, target: float, frames: int | None = None) -> Array:
    """Features [B, T, D] of a whole recording at another rate, [B, T', D], by straight lines; the
    first and the last stay. ``frames``: how many, if not as many as the rate asks for."""
    steps = features.shape[1]
    count = int(steps / source * target) if frames is None else frames
    at = jnp.arange(count, dtype=jnp.float32) * ((steps - 1) / max(count - 1, 1))
    low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, steps - 1)
    high, share = jnp.minimum(low + 1, steps - 1), (at - low)[None, :, None]
    return features[:, low] * (1 - share) + features[:, high] * share


def buckets(
    features: np.ndarray, rate: float, fps: float, block: int, neighbours: int = 0
) -> np.ndarray:
    """A window of features for every frame, in whole blocks of ``block`` frames.

    Args:
      features: [layers, T, D] of a whole recording at ``rate`` per second.
      fps: of the frames.
      neighbours: features on each side, ``int(rate / fps)`` apart, beyond an end its last.

    Returns:
      [frames, layers, (2 neighbours + 1) D]; zeros for frames after the sound has ended.

    Raises:
      ValueError: frames that come faster than features.
    """
    if fps > rate:
        raise ValueError(f"{fps} frames per second are more than {rate} features; resample them")
    layers, steps, _ = features.shape
    count = (int(steps / (block * rate / fps)) + 1) * block
    total = math.ceil(count / fps * rate)
    times = np.linspace(0.0, count / fps, count, endpoint=False)
    at = np.clip(np.round(times * rate).astype(int), 0, total - 1)
    reach = np.arange(-neighbours, neighbours + 1) * int(rate / fps)
    window = features[:, np.clip(at[:, None] + reach[None], 0, steps - 1)]  # [L, F, n, D]
    window = window.reshape(layers, count, -1).swapaxes(0, 1)
    return np.where((at < steps)[:, None, None], window, 0).astype(features.dtype)

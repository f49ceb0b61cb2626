"""FAVOR+ over time: softmax attention to the whole past, estimated with a state of constant size.

Source: Choromanski et al. (2021), "Rethinking Attention with Performers" (arXiv 2009.14794),
section 2.3 (positive features) and 2.4 (orthogonal directions). With
``phi(x)_i = exp(w_i . x - |x|^2 / 2)`` and Gaussian w, ``exp(q . k)`` is the mean of
``phi(q)_i phi(k)_i``, so causal attention needs only the running sums of phi(k) v^T and phi(k).

Stability: the sums are kept relative to their running peak p_t, the largest log feature so far,
which is one scalar decay exp(p_{t-1} - p_t) per head: the sums are an SSD recurrence and no
exponential is above 1. A stream longer than ``horizon`` frames forgets 1 / horizon per frame from
then on: plain fp32 sums would take no more frames in after 2 ** 24 of them (six days at 30 fps).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .exportable import exportable
from .gaps import compact, scatter
from .kernels.ssd import linear_attention
from .streaming import DType, Fields

Array = jax.Array

NOTHING = -1e30  # the peak of an empty sum: finite, so that no difference is NaN
FLOOR = -1e4  # log decays below it are exactly zero anyway
TINY = 1e-30


@functools.cache
def orthogonal_features(features: int, width: int, seed: int = 0) -> np.ndarray:
    """Directions w [features, width], fp32: rows of one block of ``width`` are orthogonal, and
    their lengths are those of Gaussian vectors. The same for one seed on every machine."""
    rng = np.random.RandomState(seed)  # frozen by numpy's policy, unlike the newer generators
    blocks = []
    for _ in range(-(-features // width)):
        q, r = np.linalg.qr(rng.standard_normal((width, width)))
        blocks.append((q * np.sign(np.diag(r))).T)
    directions = np.concatenate(blocks)[:features]
    lengths = np.linalg.norm(rng.standard_normal((features, width)), axis=1, keepdims=True)
    return (directions * lengths).astype(np.float32)


def log_features(x: Array, projection: Array) -> Array:
    """log phi(x): x [..., width], projection [m, width] -> [..., m], fp32."""
    x = x.astype(jnp.float32)
    square = 0.5 * (x * x).sum(axis=-1, keepdims=True)
    return jnp.einsum("...d,md->...m", x, projection, precision="highest") - square


@exportable
class Sums(NamedTuple):
    """Running sums of ``rows`` independent streams, all fp32, relative to exp(peak)."""

    s: Array  # [rows, m, H * dv] sum of phi(k) v^T: all channels in whole vector lanes
    z: Array  # [rows, m, H] sum of phi(k)
    peak: Array  # [rows, H] log scale


def init_sums(rows: int, features: int, heads: int, channels: int) -> Sums:
    """Empty sums."""
    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    return Sums(
        zeros((rows, features, channels)),
        zeros((rows, features, heads)),
        jnp.full((rows, heads), NOTHING, jnp.float32),
    )


def favor_attention(
    sums: Sums,
    q: Array,
    k: Array,
    v: Array,
    projection: Array,
    *,
    forget: Array | None = None,
    alive: Array | None = None,
    chunk: int = 64,
    implementation: str | None = None,
) -> tuple[Sums, Array]:
    """Causal attention softmax(q k^T / sqrt(width)) v over axis 1, estimated; any T >= 1.

    Args:
      sums: of the frames before.
      q, k: [B, T, H, width].
      v: [B, T, H * dv], the heads side by side.
      projection: [m, width], see :func:`orthogonal_features`.
      forget: [B, T] log decay <= 0 of the past at each frame, or None for none.
      alive: [B, T] bool or None; False leaves the sums as they were.
      chunk, implementation: of :func:`~streamzoo.layers.kernels.ssd.linear_attention`.

    Returns:
      (the new sums, y [B, T, H * dv] in the dtype of v).
    """
    batch, steps, heads, width = q.shape
    scale = width**-0.25
    log_q, log_k = log_features(q * scale, projection), log_features(k * scale, projection)
    fade = jnp.zeros((batch, steps)) if forget is None else forget.astype(jnp.float32)
    top = log_k.max(axis=-1)  # [B, T, H]
    if alive is not None:
        fade = jnp.where(alive, fade, 0.0)
        top = jnp.where(alive[..., None], top, NOTHING)
    # p_t = max(p_{t-1} + fade_t, top_t), solved for all frames. The result does not depend on
    # the peaks, so no gradient goes through them.
    total = jnp.cumsum(fade, axis=1)[..., None]
    rise = jax.lax.cummax(jnp.maximum(top - total, sums.peak[:, None]), axis=1)
    peak = jax.lax.stop_gradient(rise + total)
    before = jnp.concatenate([jax.lax.stop_gradient(sums.peak)[:, None], peak[:, :-1]], axis=1)
    g = jnp.maximum((before - peak) + fade[..., None], FLOOR)
    keys = jnp.exp(jnp.minimum(log_k - peak[..., None], 0.0))
    if alive is not None:
        keys = jnp.where(alive[..., None, None], keys, 0.0)
    # Any factor per query cancels in the ratio.
    queries = jnp.exp(log_q - jax.lax.stop_gradient(log_q.max(axis=-1, keepdims=True)))
    past = functools.partial(linear_attention, queries, keys, chunk=chunk)
    above, s = past(v.astype(jnp.float32), g, sums.s, implementation=implementation)
    below, z = past(jnp.ones((batch, steps, heads)), g, sums.z, implementation="reference")
    below = jnp.maximum(below, TINY)[..., None]
    y = (above.reshape(batch, steps, heads, -1) / below).reshape(v.shape)
    return Sums(s, z, peak[:, -1]), y.astype(v.dtype)


@exportable
class FavorState(NamedTuple):
    s: Array  # [B, N, features, D] fp32
    z: Array  # [B, N, features, heads] fp32
    peak: Array  # [B, N, heads] fp32
    seen: Array  # [B] int32 frames, at most horizon


class Favor(nn.Module):
    """Performer attention of each token position to its whole past. Latency 0.

    The directions follow from ``seed`` and are no parameters: weights trained with one seed need
    it again. Order in time does not enter (there is no position in the sum).

    Attributes:
      dim: channels in and out.
      heads: None takes heads of width 64.
      features: random features per head; None takes twice the head width. The error of the
        estimate falls with their square root, the state grows with them.
      horizon: frames after which old ones begin to fade (see the module); None never.
      seed: of the directions.
      chunk, implementation: see :func:`favor_attention`.

    Raises:
      ValueError: heads does not divide dim, or horizon < 2.
    """

    dim: int
    heads: int | None = None
    features: int | None = None
    horizon: int | None = 2**16
    seed: int = 0
    chunk: int = 64
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32
    latency = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """(heads, features)."""
        heads = self.heads or max(1, self.dim // 64)
        if self.dim % heads:
            raise ValueError(f"heads {heads} of Favor does not divide dim {self.dim}")
        return heads, self.features or 2 * (self.dim // heads)

    def setup(self):
        _ = self.sizes  # fails early
        if self.horizon is not None and self.horizon < 2:
            raise ValueError(f"horizon {self.horizon} of Favor must be at least 2 frames, or None")
        kind: Fields = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.qkv = nn.Dense(3 * self.dim, **kind)
        self.out = nn.Dense(self.dim, **kind)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> FavorState:
        """Nothing seen; see :class:`FavorState`."""
        heads, features = self.sizes
        empty = init_sums(batch * tokens, features, heads, self.dim)
        split = lambda a: a.reshape(batch, tokens, *a.shape[1:])
        seen = jnp.zeros((batch,), jnp.int32)
        return FavorState(split(empty.s), split(empty.z), split(empty.peak), seen)

    def __call__(
        self, carry: FavorState, x: Array, valid: Array | None = None
    ) -> tuple[FavorState, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        heads, features = self.sizes
        batch, steps, tokens, dim = x.shape
        dense = compact(x, valid)
        index = jnp.arange(steps)
        forget, seen = None, carry.seen + dense.fresh
        if self.horizon is not None:
            late = carry.seen[:, None] + index >= self.horizon
            forget = jnp.where(late, np.log1p(-1 / self.horizon), 0.0)
        seen = jnp.minimum(seen, self.horizon or 2**30)
        alive = None if valid is None else index < dense.fresh[:, None]

        def fold(z, *last):  # [B, T, N, ...] -> [B * N, T, *last]: tokens are streams of the op
            return z.swapaxes(1, 2).reshape(batch * tokens, steps, *last)

        def each(a):  # [B, T] -> [B * N, T]
            return None if a is None else jnp.repeat(a, tokens, axis=0)

        q, k, v = jnp.split(self.qkv(dense.x), 3, axis=-1)
        sums, y = favor_attention(
            Sums(*(a.reshape(-1, *a.shape[2:]) for a in carry[:3])),
            fold(q, heads, dim // heads),
            fold(k, heads, dim // heads),
            fold(v, dim),
            jnp.asarray(orthogonal_features(features, dim // heads, self.seed)),
            forget=each(forget),
            alive=each(alive),
            chunk=self.chunk,
            implementation=self.implementation,
        )
        y = self.out(y.reshape(batch, tokens, steps, dim).swapaxes(1, 2))
        s, z, peak = (a.reshape(old.shape) for a, old in zip(sums, carry[:3], strict=True))
        return FavorState(s, z, peak, seen), scatter(y, dense, valid)

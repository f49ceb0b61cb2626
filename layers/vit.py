"""The parts of a vision transformer: attention, MLP, block, and a stack scanned over depth.

One :class:`Block` serves the offline teacher (all tokens of a clip as one "frame") and the causal
students (tokens of one frame, plus a temporal mixer). Equal blocks are stacked and scanned over
depth: compile time does not grow with depth and XLA never copies slices of unrolled weights.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929), pre-norm form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .kernels.attention import attention, attention_with_rows
from .mixers import Mix

Array = jax.Array
Taps = tuple[str, ...]



@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The exact GELU, x Phi(x) (arXiv 1606.08415). Its gradient keeps x alone, not the steps."""
    return x * _normal_cdf(x)


def _normal_cdf(x: Array) -> Array:
    # by erf: the erfc of jax.nn.gelu costs three times as much on a CPU
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_slope(x: Array, slope: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5
    return (slope * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_slope)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "silu": nn.silu,
    "relu": nn.relu,
}


def layer_norm(eps: float, dtype: Any) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance: E[x^2] - E[x]^2 loses digits on large means."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one frame.

    Parameters are one fused ``qkv`` [D, 3D] and ``out`` [D, D]. ``rope`` is (cos, sin), each
    [N, head width / 2], applied to queries and keys.
    """

    dim: int
    heads: int
    dtype: Any = jnp.float32

    def setup(self):
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        self.qkv = nn.Dense(3 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(
        self, x: Array, rope: tuple[Array, Array] | None = None, weights: bool = False
    ) -> tuple[Array, Array | None]:
        """x [M, N, D] -> (y [M, N, D], attention rows [M, H, N, N] if ``weights`` else None)."""
        head = self.dim // self.heads
        q, k, v = (
            part.reshape(*x.shape[:-1], self.heads, head)
            for part in jnp.split(self.qkv(x.reshape(-1, self.dim)), 3, axis=-1)
        )
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        y, rows = attention_with_rows(q, k, v) if weights else (attention(q, k, v), None)
        return self.out(y.reshape(-1, self.dim)).reshape(x.shape), rows


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding, halves convention: x [..., N, H, Dh]; cos, sin [..., N, Dh / 2]."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Mlp(nn.Module):
    """Two dense layers with an activation between. x [..., D] -> [..., D]."""

    dim: int
    hidden: int
    activation: str = "gelu"
    dtype: Any = jnp.float32

    def setup(self):
        self.up = nn.Dense(self.hidden, dtype=self.dtype)
        self.down = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        # one axis of rows: the weights' gradient is one plain product, 1.5 times as fast on a CPU
        h = ACTIVATIONS[self.activation](self.up(x.reshape(-1, x.shape[-1])))
        return self.down(h).reshape(x.shape)


class LayerScale(nn.Module):
    """A learned gain per channel (Touvron et al., arXiv 2103.17239). x [..., D] -> [..., D]."""

    dim: int
    value: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self):
        self.gain = self.param("gain", nn.initializers.constant(self.value), (self.dim,))

    def __call__(self, x: Array) -> Array:
        return x * self.gain.astype(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and MLP within a frame, and one temporal mixer over frames.

    The mixer's place (see :class:`~streamzoo.layers.mixers.Mix`):

    - ``stream``: x = mix(x), then attention and MLP (the temporal shift of TSA);
    - ``input``: attention reads mix(LN x), the residual stream stays unmixed;
    - ``residual``: x += attention(LN x); x += mix(LN x); x += MLP(LN x) (DSTA and the recurrent,
      windowed and convolutional mixers);
    - ``before``: x += mix(norm x); x += attention(LN x); x += MLP(LN x) (TRecViT's layer, whose
      ``mix_norm`` is ``rms``).
    """

    dim: int
    heads: int
    mix: Mix = Mix("none")
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-6
    layer_scale: float | None = None
    mix_norm: str = "layer"
    dtype: Any = jnp.float32

    def setup(self):
        def norm():
            return layer_norm(self.eps, self.dtype)

        def scale():
            return LayerScale(self.dim, self.layer_scale, self.dtype) if self.layer_scale else None

        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(self.dim, self.heads, self.dtype)
        self.mlp = Mlp(self.dim, int(self.dim * self.mlp_ratio), self.activation, self.dtype)
        self.scale1, self.scale2 = scale(), scale()
        if self.mix.kind != "none":
            self.mixer = self.mix.build(self.dim, self.dtype)
            if self.mix.place in ("residual", "before"):
                rms = nn.RMSNorm(epsilon=self.eps, dtype=self.dtype)
                self.norm_t = rms if self.mix_norm == "rms" else norm()

    def __call__(
        self,
        carry: Any,
        x: Array,
        valid: Array | None = None,
        rope: tuple[Array, Array] | None = None,
        taps: Taps = (),
    ) -> tuple[Any, Array, dict[str, Array]]:
        """x [B, T, N, D] -> (carry, y [B, T, N, D], the intermediates named in ``taps``)."""
        place = self.mix.place if self.mix.kind != "none" else None
        if place == "stream":
            carry, x = self.mixer(carry, x, valid)
        elif place == "before":
            carry, h = self.mixer(carry, self.norm_t(x), valid)
            x = x + h
        h = self.norm1(x)
        if place == "input":
            carry, h = self.mixer(carry, h, valid)
        h, rows = self.attn(h.reshape(-1, *h.shape[2:]), rope, weights="attention" in taps)
        h = h.reshape(x.shape)
        x = x + (self.scale1(h) if self.scale1 is not None else h)
        if place == "residual":
            carry, h = self.mixer(carry, self.norm_t(x), valid)
            x = x + h
        h = self.mlp(self.norm2(x))
        x = x + (self.scale2(h) if self.scale2 is not None else h)
        found = {}
        if rows is not None:
            found["attention"] = rows.reshape(*x.shape[:2], *rows.shape[1:])
        if "hidden" in taps:
            found["hidden"] = x
        return carry, x, found


class _Period(nn.Module):
    """One period of the temporal pattern: the unit that is stacked and scanned over depth."""

    pattern: tuple[Mix, ...]
    block: dict[str, Any]

    def setup(self):
        for i, mix in enumerate(self.pattern):
            setattr(self, f"layer{i}", Block(mix=mix, **self.block))

    def __call__(self, states, x, index, valid, rope, taps):
        """states: one carry per pattern entry with leaves [B, repeats, ...]; index: which one."""
        found = []
        updated = []
        for i, state in enumerate(states):
            here = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, False), state)
            here, x, tap = getattr(self, f"layer{i}")(here, x, valid, rope, taps)
            updated.append(
                jax.tree.map(
                    lambda a, new: jax.lax.dynamic_update_index_in_dim(a, new, index, 1),
                    state,
                    here,
                )
            )
            found.append(tap)
        stacked = {k: jnp.stack([tap[k] for tap in found]) for k in found[0]}
        return tuple(updated), x, stacked


class BlockStack(nn.Module):
    """``depth`` blocks whose temporal mixers repeat a pattern; scanned over its repeats.

    The carry is a tuple over the pattern's entries, leaves [B, depth / len(pattern), ...]: batch
    first, so that one stream can be taken out of a batch. Parameters are stacked on axis 0.

    Raises:
      ValueError: if depth is not a multiple of the pattern's length.
    """

    dim: int
    depth: int
    heads: int
    pattern: tuple[Mix, ...] = (Mix("none"),)
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-6
    layer_scale: float | None = None
    mix_norm: str = "layer"
    dtype: Any = jnp.float32
    unroll: int = 1  # repeats per iteration of the scan; all of them for cost analysis

    @property
    def repeats(self) -> int:
        if not self.pattern or self.depth % len(self.pattern):
            raise ValueError(
                f"depth {self.depth} is not a multiple of the temporal pattern's length "
                f"{len(self.pattern)}; write the pattern out for every block"
            )
        return self.depth // len(self.pattern)

    def setup(self):
        self.repeats  # noqa: B018  (fails early)
        self.period = _Period(
            self.pattern,
            dict(
                dim=self.dim,
                heads=self.heads,
                mlp_ratio=self.mlp_ratio,
                activation=self.activation,
                eps=self.eps,
                layer_scale=self.layer_scale,
                mix_norm=self.mix_norm,
                dtype=self.dtype,
            ),
        )
        nn.share_scope(self, self.period)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int):
        """Zero carry for ``batch`` streams of ``tokens`` tokens per frame."""

        def per_layer(leaf):
            return jnp.repeat(leaf[:, None], self.repeats, axis=1)

        return tuple(
            ()
            if mix.kind == "none"
            else jax.tree.map(
                per_layer,
                mix.build(self.dim, self.dtype, parent=None).init_carry(batch, tokens),
            )
            for mix in self.pattern
        )

    def __call__(
        self,
        carry,
        x: Array,
        valid: Array | None = None,
        rope: tuple[Array, Array] | None = None,
        taps: Taps = (),
    ):
        """x [B, T, N, D] -> (carry, y [B, T, N, D], taps stacked over depth [L, B, T, ...])."""

        def body(period, loop, index):
            states, x = loop
            states, x, found = period(states, x, index, valid, rope, taps)
            return (states, x), found

        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.repeats,
            unroll=min(self.unroll, self.repeats),
        )
        (carry, x), found = scan(self.period, (carry, x), jnp.arange(self.repeats))
        # [repeats, pattern, ...] -> [depth, ...]
        return carry, x, {k: v.reshape(-1, *v.shape[2:]) for k, v in found.items()}

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
from .positions import rotate_halves

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
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "silu": nn.silu,
    "relu": nn.relu,
}


def layer_norm(eps: float, dtype: Any) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance: E[x^2] - E[x]^2 loses digits on large means."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False)


class FusedQKV(nn.Module):
    """The projection to queries, keys and values with biases for some of them.

    x [..., D] -> [..., 3D]; ``biased`` names those that have one ("qv": DINOv3 and EUPE have none
    for the keys). ``kernel`` [D, 3D], ``bias`` [len(biased) * D].
    """

    dim: int
    biased: str
    dtype: Any = jnp.float32

    def setup(self):
        shape = (self.dim, 3 * self.dim)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.biased:
            width = len(self.biased) * self.dim
            self.bias = self.param("bias", nn.initializers.zeros, (width,))

    def __call__(self, x: Array) -> Array:
        y = x.astype(self.dtype) @ self.kernel.astype(self.dtype)
        if not self.biased:
            return y
        parts = dict(zip(self.biased, jnp.split(self.bias, len(self.biased)), strict=True))
        zeros = jnp.zeros(self.dim, self.bias.dtype)
        return y + jnp.concatenate([parts.get(n, zeros) for n in "qkv"]).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one frame.

    Parameters are one fused ``qkv`` [D, 3D] and ``out`` [D, D]. ``rope`` is (cos, sin), each
    [N, head width / 2] or [N, head width] (see ``positions.rotate_halves``), applied to queries and
    keys. ``biased``: which of queries, keys and values have a bias. ``softcap`` bounds the logits:
    cap * tanh(logits / cap). ``causal``: a token sees itself and those before (texts).
    """

    dim: int
    heads: int
    dtype: Any = jnp.float32
    biased: str = "qkv"
    softcap: float | None = None
    causal: bool = False

    def setup(self):
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if self.biased == "qkv":
            self.qkv = nn.Dense(3 * self.dim, dtype=self.dtype)
        else:
            self.qkv = FusedQKV(self.dim, self.biased, self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def project(
        self, x: Array, rope: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array, Array]:
        """x [M, N, D] -> queries, keys and values, each [M, N, H, Dh], turned by ``rope``."""
        head = self.dim // self.heads
        q, k, v = (
            part.reshape(*x.shape[:-1], self.heads, head)
            for part in jnp.split(self.qkv(x.reshape(-1, self.dim)), 3, axis=-1)
        )
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, v

    def attend(
        self, q: Array, k: Array, v: Array, weights: bool = False
    ) -> tuple[Array, Array | None]:
        """q [M, N, H, Dh], k and v [M, K, H, Dh] -> (y [M, N, D], rows [M, H, N, K] or None)."""
        if self.softcap is not None or self.causal:
            y, rows = plain_attention(q, k, v, self.softcap, self.causal)
        elif weights:
            y, rows = attention_with_rows(q, k, v)
        else:
            y, rows = attention(q, k, v), None
        y = self.out(y.reshape(-1, self.dim)).reshape(*q.shape[:2], self.dim)
        return y, rows if weights else None

    def __call__(
        self, x: Array, rope: tuple[Array, Array] | None = None, weights: bool = False
    ) -> tuple[Array, Array | None]:
        """x [M, N, D] -> (y [M, N, D], attention rows [M, H, N, N] if ``weights`` else None)."""
        return self.attend(*self.project(x, rope), weights)


def plain_attention(
    q: Array, k: Array, v: Array, cap: float | None = None, causal: bool = False
) -> tuple[Array, Array]:
    """Attention whose logits may be bounded, cap * tanh(logits / cap), and whose queries may see
    themselves and what came before only: q [M, N, H, Dh], k and v [M, K, H, Dh] -> (y
    [M, N, H, Dh], rows [M, H, N, K] fp32)."""
    logits = jnp.einsum("mqhd,mkhd->mhqk", q, k, preferred_element_type=jnp.float32)
    logits = logits * q.shape[-1] ** -0.5
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if causal:
        logits = jnp.where(jnp.tri(*logits.shape[2:], dtype=bool), logits, -jnp.inf)
    rows = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("mhqk,mkhd->mqhd", rows.astype(v.dtype), v), rows


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding, halves convention: x [..., N, H, Dh]; cos, sin [..., N, Dh / 2], or
    [..., N, Dh]."""
    return rotate_halves(x, cos[..., None, :], sin[..., None, :]).astype(x.dtype)


class Mlp(nn.Module):
    """Two dense layers with an activation between; gated: down(act(gate(x)) * up(x)).

    x [..., D] -> [..., D].
    """

    dim: int
    hidden: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    gated: bool = False

    def setup(self):
        if self.gated:
            self.gate = nn.Dense(self.hidden, dtype=self.dtype)
        self.up = nn.Dense(self.hidden, dtype=self.dtype)
        self.down = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        # one axis of rows: the weights' gradient is one plain product, 1.5 times as fast on a CPU
        flat, act = x.reshape(-1, x.shape[-1]), ACTIVATIONS[self.activation]
        h = act(self.gate(flat)) * self.up(flat) if self.gated else act(self.up(flat))
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
    gated: bool = False
    biased: str = "qkv"
    softcap: float | None = None
    causal: bool = False

    def setup(self):
        def norm():
            return layer_norm(self.eps, self.dtype)

        def scale():
            return LayerScale(self.dim, self.layer_scale, self.dtype) if self.layer_scale else None

        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(
            self.dim, self.heads, self.dtype, self.biased, self.softcap, self.causal
        )
        hidden = round(self.dim * self.mlp_ratio)
        self.mlp = Mlp(self.dim, hidden, self.activation, self.dtype, self.gated)
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
    gated: bool = False
    biased: str = "qkv"
    softcap: float | None = None
    causal: bool = False

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
                gated=self.gated,
                biased=self.biased,
                softcap=self.softcap,
                causal=self.causal,
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

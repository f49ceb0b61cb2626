"""A pre-norm transformer block with a place for a temporal mixer, a context and a condition.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929), pre-norm form; the
modulation is that of Peebles and Xie, "Scalable Diffusion Models with Transformers" (arXiv
2212.09748), with a learned table per block as in PixArt-alpha (arXiv 2310.00426) and Wan.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..mixers import Mix
from ..ranks import to_rank
from ..streaming import Carry
from .attention import Attention, CrossAttention, Memory, Rope
from .config import BlockConfig
from .experts import Experts
from .mlp import Mlp
from .norms import LayerScale, layer_norm, rms_norm

Array = jax.Array
Taps = tuple[str, ...]

FEEDS = ("mlp", "experts", "none")  # feed-forward parts


class Block(nn.Module):
    """Pre-norm attention and MLP within a frame, and one temporal mixer over frames.

    The mixer's place (see :class:`~streamzoo.layers.mixers.Mix`):

    - ``stream``: x = mix(x), then attention and MLP (the temporal shift of TSA);
    - ``input``: attention reads mix(LN x), the residual stream stays unmixed;
    - ``residual``: x += attention(LN x); x += mix(LN x); x += MLP(LN x) (DSTA and the recurrent,
      windowed and convolutional mixers);
    - ``before``: x += mix(norm x); x += attention(LN x); x += MLP(LN x) (TRecViT's layer, whose
      ``mix_norm`` is ``rms``).

    ``feed`` is the feed-forward part: the ``mlp``, ``experts`` of which every token takes a few
    (``config.experts``), or ``none``, then x += MLP(LN x) is left out.

    With ``config.cross`` the tokens read a context between attention and MLP. With
    ``config.modulated`` each of these two branches is gate * f(norm(x) * (1 + scale) + shift), the
    six vectors being ``condition`` plus a learned table [6, D]: shift, scale, gate of the
    attention, then of the MLP.
    """

    config: BlockConfig
    mix: Mix = Mix("none")
    feed: str = "mlp"

    def setup(self):
        c = self.config
        if self.feed not in FEEDS or self.feed == "experts" and c.experts is None:
            raise ValueError(f"feed {self.feed!r}: one of {FEEDS}; experts want config.experts")

        def norm(affine: bool = True, kind: str = c.norm):
            make = rms_norm if kind == "rms" else layer_norm
            return make(c.eps, c.dtype, affine)

        def scale():
            return LayerScale(c.dim, c.layer_scale, c.dtype) if c.layer_scale else None

        self.norm1 = norm(not c.modulated)
        self.attn = Attention(c)
        self.scale1 = scale()
        if self.feed != "none":
            self.norm2, self.scale2 = norm(not c.modulated), scale()
        if self.feed == "mlp":
            self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype, c.gated, c.mlp_bias)
        elif c.experts is not None and self.feed == "experts":
            self.mlp = Experts(c.dim, c.experts, c.activation, c.dtype)
        if c.cross is not None:
            self.norm_cross = norm()
            self.cross = CrossAttention(c)
        if c.modulated:
            small = nn.initializers.normal(c.dim**-0.5)
            self.modulation = self.param("modulation", small, (6, c.dim))
        if self.mix.kind != "none":
            self.mixer = self.mix.build(c.dim, c.dtype)
            if self.mix.place in ("residual", "before"):
                self.norm_t = norm(kind=c.mix_norm)

    def __call__(
        self,
        carry: Carry,
        x: Array,
        valid: Array | None = None,
        rope: Rope | None = None,
        taps: Taps = (),
        *,
        mask: Array | None = None,
        context: Array | None = None,
        condition: Array | None = None,
        memory: Memory | None = None,
    ) -> tuple[Carry, Array, dict[str, Array]]:
        """One block.

        Args:
          carry: of the mixer, () without one.
          x: [B, T, N, D].
          valid: [B, T] bool, frames that are there.
          rope: (cos, sin) of the tokens of a frame.
          taps: intermediates to return: ``attention`` [B, T, H, N, N], ``hidden`` [B, T, N, D].
          mask: bool, broadcastable to [B * T, H, N, N]: which token sees which.
          context: [B, T, K, C] or [B, 1, K, C], read by the cross-attention.
          condition: [B, T, 6, D], or [B, T, N, 6, D] per token; with ``config.modulated``.
          memory: the T * N tokens read it and each other, and follow what it has (it masks and
            turns them, so no ``rope`` and no ``mask``). The ``keys`` and ``values`` [B, R, G, Dh]
            that it says to keep are among the intermediates then.

        Returns:
          (carry, y [B, T, N, D], the intermediates named in ``taps``).
        """
        place = self.mix.place if self.mix.kind != "none" else None
        shift1, scale1, gate1, shift2, scale2, gate2 = self._modulation(condition, x)
        if place == "stream":
            carry, x = self.mixer(carry, x, valid)
        elif place == "before":
            carry, h = self.mixer(carry, self.norm_t(x), valid)
            x = x + h
        h = _modulate(self.norm1(x), shift1, scale1)
        if place == "input":
            carry, h = self.mixer(carry, h, valid)
        found, rows = {}, None
        if memory is not None:
            together = h.reshape(h.shape[0], -1, h.shape[-1])
            h, found["keys"], found["values"] = self.attn.recall(together, memory)
        else:
            frames = h.reshape(-1, *h.shape[2:])
            h, rows = self.attn(frames, rope, weights="attention" in taps, mask=mask)
        x = x + _gated(self.scale1, h.reshape(x.shape), gate1)
        if place == "residual":
            carry, h = self.mixer(carry, self.norm_t(x), valid)
            x = x + h
        if self.config.cross is not None:
            x = x + self._read(self.norm_cross(x), context)
        if self.feed != "none":
            h = self.mlp(_modulate(self.norm2(x), shift2, scale2))
            x = x + _gated(self.scale2, h, gate2)
        if rows is not None:
            found["attention"] = rows.reshape(*x.shape[:2], *rows.shape[1:])
        if "hidden" in taps:
            found["hidden"] = x
        return carry, x, found

    def _modulation(self, condition: Array | None, x: Array):
        if not self.config.modulated:
            return (None,) * 6
        if condition is None:
            raise ValueError("a modulated block needs a condition [B, T, 6, D]")
        if condition.ndim == x.ndim:  # one for all tokens of a frame
            condition = condition[:, :, None]
        # fp32: the published networks add the table to the time embedding in fp32
        condition = condition.astype(jnp.float32)
        parts = condition + to_rank(self.modulation, condition)
        return (parts[..., i, :] for i in range(6))

    def _read(self, x: Array, context: Array | None) -> Array:
        if context is None:
            raise ValueError("a block with cross-attention needs a context [B, T, K, C]")
        if context.shape[1] == 1:  # one for all frames: its keys and values are computed once
            flat = self.cross(x.reshape(x.shape[0], -1, x.shape[-1]), context[:, 0])
            return flat.reshape(x.shape)
        context = jnp.broadcast_to(context, (*x.shape[:2], *context.shape[2:]))
        flat = self.cross(x.reshape(-1, *x.shape[2:]), context.reshape(-1, *context.shape[2:]))
        return flat.reshape(x.shape)


def _modulate(x: Array, shift: Array | None, scale: Array | None) -> Array:
    if shift is None or scale is None:
        return x
    return (x * (1 + scale) + shift).astype(x.dtype)


def _gated(gain: LayerScale | None, x: Array, gate: Array | None) -> Array:
    x = x if gain is None else gain(x)
    return x if gate is None else (x * gate).astype(x.dtype)

"""Mask decoder: prompts and an image embedding to masks.

Tokens for the masks, their quality and (SAM 2) the presence of the object attend to the image and
the image to them, twice; the image is then brought to four times its resolution and every mask is
the product of it with a vector made of that mask's token. One module serves SAM, SAM 2 and
EfficientSAM; what differs is data in :class:`DecoderConfig`.

All masks are always computed; :func:`all_masks`, :func:`one_mask` and :func:`pick` select, so that
a stream can change its mind per frame without compiling again.

Axis letters: B images, P prompts, N prompt tokens, M masks (1 single + 3 multiple), D width.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643), appendix A; Ravi et al., "SAM 2"
(arXiv 2408.00714), appendix D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ...layers.exportable import exportable
from ...layers.kernels.attention import attention
from ...layers.ranks import add, to_rank
from ...layers.streaming import DType
from ...layers.transformer import ACTIVATIONS, Mlp, gelu, layer_norm
from ..outputs import Output

Array = jax.Array


@dataclass(frozen=True)
class DecoderConfig:
    """Shapes and conventions of a mask decoder; the defaults are SAM 2's.

    dim, heads, depth, hidden:  width, attention heads, layers and MLP width of the transformer
    downsample:                 cross-attention works at width dim / downsample
    multimasks:                 number of masks beside the single one
    iou_depth, iou_hidden:      layers and width of the quality head
    activation:                 of the transformer's and the heads' MLPs
    eps:                        of the norms in the transformer's layers (the last one has 1e-5)
    object_score:               a token and a head say whether the object is in the frame
    skips:                      features of four and two times the resolution are added
    iou_sigmoid:                the quality head ends in a sigmoid
    upscale_norm:               "layer", or "group": one group over all channels and cells
    keep_positions:             EfficientSAM: the first self-attention has a residual, and later
                                ones add the tokens' positions to the residual stream itself
    """

    dim: int = 256
    heads: int = 8
    depth: int = 2
    hidden: int = 2048
    downsample: int = 2
    multimasks: int = 3
    iou_depth: int = 3
    iou_hidden: int = 256
    activation: str = "relu"
    eps: float = 1e-5
    object_score: bool = True
    skips: bool = True
    iou_sigmoid: bool = True
    upscale_norm: Literal["layer", "group"] = "layer"
    keep_positions: bool = False

    def __post_init__(self) -> None:
        if self.dim % 8 or self.dim % self.downsample:
            raise ValueError(f"dim {self.dim}: not a multiple of 8 and of {self.downsample}")
        if (self.dim // self.downsample) % self.heads:
            raise ValueError(
                f"heads {self.heads} do not divide the attention width"
                f" {self.dim // self.downsample}"
            )
        if self.upscale_norm not in ("layer", "group"):
            raise ValueError(f"upscale_norm {self.upscale_norm!r}: not 'layer' or 'group'")


@exportable
@struct.dataclass
class Masks(Output):
    """Masks of every prompt; out of the decoder mask 0 is the single one.

    logits:        [B, P, M, 4h, 4w], positive inside
    iou:           [B, P, M] predicted quality
    tokens:        [B, P, M, D] the token of each mask (an object pointer is made of it)
    object_logits: [B, P, 1], positive if the object is in the frame; None where not predicted
    """

    logits: Array
    iou: Array
    tokens: Array
    object_logits: Array | None = None

    def map(self, change: Callable[[Array], Array]) -> Self:
        """``change`` applied to what there is one of per mask."""
        return self.replace(
            logits=change(self.logits), iou=change(self.iou), tokens=change(self.tokens)
        )


class CrossAttention(nn.Module):
    """Multi-head attention of one set to another at width ``inner``.

    Parameters ``q``, ``k``, ``v`` [D, inner] and ``out`` [inner, D].
    """

    dim: int
    heads: int
    inner: int
    dtype: DType = jnp.float32

    def setup(self):
        self.q, self.k, self.v = (nn.Dense(self.inner, dtype=self.dtype) for _ in range(3))
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        valid: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        """q [M, Nq, D], k and v [M, Nk, D], valid [M, Nk] of the keys or [M, Nq, Nk] of what each
        query sees, bias [M, H, Nq, Nk] of the logits -> [M, Nq, D]."""
        head = self.inner // self.heads
        q, k, v = (
            x.reshape(*x.shape[:2], self.heads, head) for x in (self.q(q), self.k(k), self.v(v))
        )
        seen = valid if valid is None or valid.ndim == 3 else valid[:, None]
        y = attention(q, k, v, mask=None if seen is None else seen[:, None], bias=bias)
        return self.out(y.reshape(*y.shape[:2], self.inner))


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, pass an MLP, and the image attends to them.

    Norms follow each residual sum.
    """

    config: DecoderConfig
    first: bool
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        inner = c.dim // c.downsample
        self.self_attn = CrossAttention(c.dim, c.heads, c.dim, self.dtype)
        self.to_image = CrossAttention(c.dim, c.heads, inner, self.dtype)
        self.to_tokens = CrossAttention(c.dim, c.heads, inner, self.dtype)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, self.dtype)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            layer_norm(c.eps, self.dtype) for _ in range(4)
        )

    def __call__(
        self, tokens: Array, image: Array, at_tokens: Array, at_image: Array, valid: Array
    ) -> tuple[Array, Array]:
        """tokens, at_tokens [M, N, D], image, at_image [M, h * w, D], valid [M, N]."""
        if self.config.keep_positions:
            tokens = tokens if self.first else tokens + at_tokens
            tokens = tokens + self.self_attn(tokens, tokens, tokens, valid)
        elif self.first:  # tokens are their own positions here
            tokens = self.self_attn(tokens, tokens, tokens, valid)
        else:
            q = tokens + at_tokens
            tokens = tokens + self.self_attn(q, q, tokens, valid)
        tokens = self.norm1(tokens)
        where = add(image, to_rank(at_image, image))
        tokens = self.norm2(tokens + self.to_image(tokens + at_tokens, where, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = add(image, self.to_tokens(where, tokens + at_tokens, tokens, valid))
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """``depth`` two-way blocks and a last attention of the tokens to the image."""

    config: DecoderConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        for i in range(c.depth):
            setattr(self, f"layer{i}", TwoWayBlock(c, i == 0, self.dtype))
        self.final = CrossAttention(c.dim, c.heads, c.dim // c.downsample, self.dtype)
        self.norm = layer_norm(1e-5, self.dtype)

    def __call__(
        self, tokens: Array, image: Array, at_image: Array, valid: Array
    ) -> tuple[Array, Array]:
        """As :class:`TwoWayBlock`; the tokens as they come are their own positions."""
        at_tokens = tokens
        for i in range(self.config.depth):
            layer = getattr(self, f"layer{i}")
            tokens, image = layer(tokens, image, at_tokens, at_image, valid)
        where = add(image, to_rank(at_image, image))
        tokens = tokens + self.final(tokens + at_tokens, where, image)
        return self.norm(tokens), image


class Double(nn.Module):
    """Transposed convolution of window and stride 2: [M, h, w, I] -> [M, 2h, 2w, O].

    Windows do not overlap, so it is one product; ``kernel`` is [I, 2, 2, O].
    """

    width: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], 2, 2, self.width)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0)
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        y = jnp.einsum("mhwi,iyxo->mhywxo", x, kernel)
        y = y.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], self.width)
        return y + to_rank(bias, y)


class MlpHead(nn.Module):
    """``depth`` dense layers with an activation between them: [..., I] -> [..., O].

    Parameters are ``dense0``, ``dense1``, ….
    """

    hidden: int
    out: int
    depth: int = 3
    activation: str = "relu"
    dtype: DType = jnp.float32

    def setup(self):
        for i in range(self.depth):
            width = self.out if i == self.depth - 1 else self.hidden
            setattr(self, f"dense{i}", nn.Dense(width, dtype=self.dtype))

    def __call__(self, x: Array) -> Array:
        for i in range(self.depth - 1):
            x = ACTIVATIONS[self.activation](getattr(self, f"dense{i}")(x))
        return getattr(self, f"dense{self.depth - 1}")(x)


class MaskDecoder(nn.Module):
    """Masks, their quality and the presence of the object, for every prompt of every image.

    ``tokens`` [(1 if object_score) + 1 + M, D] are, in this order, those of the object score, the
    quality and the masks; the M heads that turn mask tokens into vectors are stacked on axis 0.
    """

    config: DecoderConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        self.masks = c.multimasks + 1
        self.first_mask = 1 + int(c.object_score)
        count = self.first_mask + self.masks
        self.tokens = self.param("tokens", nn.initializers.normal(1.0), (count, c.dim))
        self.transformer = TwoWayTransformer(c, self.dtype)
        self.upscale1 = Double(c.dim // 4, self.dtype)
        self.upscale2 = Double(c.dim // 8, self.dtype)
        if c.upscale_norm == "layer":
            self.upscale_norm = layer_norm(1e-6, self.dtype)
        else:
            self.upscale_norm = nn.GroupNorm(
                1, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False
            )
        heads = nn.vmap(
            MlpHead, in_axes=2, out_axes=2, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        shape: Any = dict(activation=c.activation, dtype=self.dtype)
        self.hyper = heads(c.dim, c.dim // 8, 3, **shape)
        self.iou_head = MlpHead(c.iou_hidden, self.masks, c.iou_depth, **shape)
        if c.object_score:
            self.object_head = MlpHead(c.dim, 1, 3, **shape)
        if c.skips:
            self.skip0 = nn.Conv(c.dim // 8, (1, 1), dtype=self.dtype)
            self.skip1 = nn.Conv(c.dim // 4, (1, 1), dtype=self.dtype)

    def project(self, high: Array, middle: Array) -> tuple[Array, Array]:
        """The two skip features, once per image: [B, 4h, 4w, D], [B, 2h, 2w, D] ->
        [B, 4h, 4w, D / 8], [B, 2h, 2w, D / 4]."""
        return self.skip0(high), self.skip1(middle)

    def __call__(
        self,
        image: Array,
        positions: Array,
        sparse: Array,
        valid: Array,
        dense: Array | None = None,
        skips: tuple[Array, Array] | None = None,
    ) -> Masks:
        """Decodes.

        Args:
          image: [B, h, w, D] embedding (with memory, or "no memory", already in it).
          positions: [h, w, D] of its cells (``PromptEncoder.image_positions``).
          sparse, valid, dense: [B, P, N, D], [B, P, N], [B, P or 1, h, w, D]: the fields of
            :class:`~streamzoo.zoo.segment.prompt.Prompt`.
          skips: what :meth:`project` returns, for a config with ``skips``.

        Returns:
          All M masks: index 0 the single mask, the others for an ambiguous prompt.

        Raises:
          ValueError: skip features given to a config without them, or missing.
        """
        c = self.config
        if (skips is not None) != c.skips:
            raise ValueError(
                "this decoder needs skip features (project(high, middle))"
                if c.skips
                else "this decoder has no skip features; leave skips out"
            )
        batch, h, w, _ = image.shape
        prompts = sparse.shape[1]
        rows = batch * prompts
        own = jnp.broadcast_to(self.tokens.astype(self.dtype), (batch, prompts, *self.tokens.shape))
        tokens = jnp.concatenate([own, sparse], axis=2).reshape(rows, -1, c.dim)
        valid = jnp.concatenate([jnp.ones(own.shape[:3], bool), valid], axis=2)
        cells = image[:, None] if dense is None else image[:, None] + dense
        cells = jnp.broadcast_to(cells, (batch, prompts, h, w, c.dim)).reshape(rows, h * w, c.dim)
        tokens, cells = self.transformer(
            tokens, cells, positions.reshape(h * w, c.dim), valid.reshape(rows, -1)
        )
        tokens = tokens.reshape(batch, prompts, -1, c.dim)
        pixels = self._upscale(cells.reshape(rows, h, w, c.dim), skips, prompts)
        mask_tokens = tokens[:, :, self.first_mask : self.first_mask + self.masks]
        hyper = self.hyper(mask_tokens).reshape(rows, self.masks, c.dim // 8)
        logits = jnp.einsum("rmc,rhwc->rmhw", hyper, pixels)
        iou = self.iou_head(tokens[:, :, self.first_mask - 1])
        return Masks(
            logits.reshape(batch, prompts, self.masks, *pixels.shape[1:3]),
            nn.sigmoid(iou) if c.iou_sigmoid else iou,
            mask_tokens,
            self.object_head(tokens[:, :, 0]) if c.object_score else None,
        )

    def _upscale(self, x: Array, skips: tuple[Array, Array] | None, prompts: int) -> Array:
        """x [B * P, h, w, D] -> [B * P, 4h, 4w, D / 8]."""

        def joined(x: Array, skip: Array) -> Array:
            split = x.reshape(skip.shape[0], prompts, *x.shape[1:])
            return add(split, skip[:, None]).reshape(x.shape)

        x = self.upscale1(x)
        x = x if skips is None else joined(x, skips[1])
        if self.config.upscale_norm == "group":
            # flax's mixes types, which strict promotion refuses: fp32 in and out
            x = self.upscale_norm(x.astype(jnp.float32)).astype(self.dtype)
        else:
            x = self.upscale_norm(x)
        x = gelu(x)
        x = self.upscale2(x)
        return gelu(x if skips is None else joined(x, skips[0]))


# --- selection -------------------------------------------------------------------------------


def all_masks(masks: Masks) -> Masks:
    """The masks for an ambiguous prompt, without the single one: M - 1 of them."""
    return masks.map(lambda x: x[:, :, 1:])


def one_mask(masks: Masks, stability: tuple[float, float] | None = None) -> Masks:
    """The single mask (M = 1).

    stability: (delta, threshold) of SAM 2: where the areas above +delta and above -delta differ by
      more than ``threshold`` allows, the best of the other masks takes its place (its token
      does not). None: always the single mask.
    """
    single = masks.map(lambda x: x[:, :, :1])
    if stability is None:
        return single
    delta, threshold = stability
    inner = jnp.sum(single.logits > delta, axis=(-2, -1), dtype=jnp.float32)
    outer = jnp.sum(single.logits > -delta, axis=(-2, -1), dtype=jnp.float32)
    stable = jnp.where(outer > 0, inner / jnp.maximum(outer, 1.0), 1.0) >= threshold
    other = best_mask(masks)
    return single.replace(
        logits=jnp.where(stable[..., None, None], single.logits, other.logits),
        iou=jnp.where(stable, single.iou, other.iou),
    )


def best_mask(masks: Masks) -> Masks:
    """The mask of the best predicted quality among those for an ambiguous prompt (M = 1)."""
    several = all_masks(masks)
    best = jnp.argmax(several.iou, axis=-1)[..., None]

    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, best.reshape(*best.shape, *[1] * (x.ndim - 3)), axis=2)

    return several.map(take)


def pick(masks: Masks, ambiguous: Array | bool, stability: tuple[float, float] | None) -> Masks:
    """One mask per prompt (M = 1): the best of several where ``ambiguous`` (bool, [B, P] or one
    for all), else the single one by :func:`one_mask`."""
    several, single = best_mask(masks), one_mask(masks, stability)
    ambiguous = jnp.broadcast_to(ambiguous, masks.iou.shape[:2])

    def where(a: Array, b: Array) -> Array:
        return jnp.where(ambiguous.reshape(*ambiguous.shape, *[1] * (a.ndim - 2)), a, b)

    return single.replace(
        logits=where(several.logits, single.logits),
        iou=where(several.iou, single.iou),
        tokens=where(several.tokens, single.tokens),
    )

"""Prompt encoder: points, boxes and masks to tokens for the mask decoder.

One module serves SAM, SAM 2 and EfficientSAM; what differs between them is data in
:class:`PromptConfig`. A point is its random-Fourier position plus a learned vector for its label;
a box is two points, its corners; a mask is a map of the size of the image embedding.

Axis letters: B images, P prompts (objects) of an image, N tokens of a prompt, D width.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643), section 3 and appendix A; the
position encoding is Tancik et al. (arXiv 2006.10739).
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from ...layers.exportable import exportable
from ...layers.ranks import to_rank
from ...layers.streaming import AnyArray, DType
from ...layers.transformer import gelu, layer_norm

Array = jax.Array

BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = 0, 1, 2, 3
NOT_A_POINT = -1  # a token that says "no point here"
ABSENT = -10  # padding to a fixed number of points: as if the point were not in the array
LABELS = (BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT, NOT_A_POINT, ABSENT)


@dataclass(frozen=True)
class PromptConfig:
    """Shapes and conventions of a prompt encoder.

    dim:           width D of the tokens
    image_size:    (height, width) in pixels of the frame that prompts refer to
    patch:         pixels per cell of the image embedding
    masks:         whether there are mask prompts
    mask_channels: width between the two strided convolutions of a mask
    eps:           of the norms in the mask branch
    pad_boxes:     SAM 2 also adds a "no point" token after a box; SAM only where there is no box
    empty_tokens:  number of "no point" tokens of a prompt without points and boxes
    points:        fixed number of points per prompt (EfficientSAM: 6), 0 for as many as are given
    add_no_point:  EfficientSAM adds the "no point" vector to a position; SAM replaces it
    """

    dim: int = 256
    image_size: tuple[int, int] = (1024, 1024)
    patch: int = 16
    masks: bool = True
    mask_channels: int = 16
    eps: float = 1e-6
    pad_boxes: bool = True
    empty_tokens: int = 2
    points: int = 0
    add_no_point: bool = False

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ValueError(f"dim {self.dim} is odd; sines and cosines take half of it each")
        if any(side % self.patch for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: not multiples of patch {self.patch}")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the image embedding."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch


@exportable
@struct.dataclass
class Prompt:
    """Encoded prompts.

    sparse: [B, P, N, D] tokens of points and boxes; N may be 0
    valid:  [B, P, N] bool, False for tokens of points labelled ABSENT
    dense:  [B, P or 1, h, w, D], or None for a model without mask prompts
    """

    sparse: Array
    valid: Array
    dense: Array | None


def check_prompts(
    image_size: tuple[int, int],
    points: AnyArray | None = None,
    labels: AnyArray | None = None,
    boxes: AnyArray | None = None,
    masks: AnyArray | None = None,
) -> None:
    """Refuses prompts that cannot be meant. Shapes are always checked, values where they are
    known (arrays that are not being traced).

    points: [B, P, N, 2] (x, y) in pixels of ``image_size`` (height, width); labels: [B, P, N] of
    ``LABELS``; boxes: [B, P, 4] (x1, y1, x2, y2); masks: [B, P or 1, H, W].
    Raises ValueError naming the input, the value and the remedy.
    """
    if points is None and labels is not None:
        raise ValueError("labels without points; give points [B, P, N, 2]")
    if points is not None:
        _shaped("points", points, "[batch, prompts, points, 2]", 4, 2)
        if labels is None:
            raise ValueError("points without labels; give labels [B, P, N], 1 object, 0 background")
        if tuple(labels.shape) != tuple(points.shape[:3]):
            raise ValueError(
                f"labels {tuple(labels.shape)} for points {tuple(points.shape)}; one label a point"
            )
        if points.shape[2] == 0:
            raise ValueError("points has no point; leave it out for a prompt of a box or a mask")
        _check_points(image_size, points, labels)
    if boxes is not None:
        _shaped("boxes", boxes, "[batch, prompts, 4]", 3, 4)
        if points is not None and points.shape[:2] != boxes.shape[:2]:
            raise ValueError(
                f"points {tuple(points.shape)} and boxes {tuple(boxes.shape)} differ in batch or"
                " number of prompts"
            )
        _check_boxes(image_size, boxes)
    if masks is not None:
        if masks.ndim != 4:
            raise ValueError(f"masks {tuple(masks.shape)} is not [batch, prompts or 1, H, W]")
        if not _traced(masks) and not np.isfinite(np.asarray(masks)).all():
            raise ValueError("masks holds NaN or infinity; give finite logits, or 0 and 1")


def _traced(x: AnyArray) -> bool:
    return isinstance(x, Tracer)


def _shaped(name: str, x: AnyArray, form: str, axes: int, last: int) -> None:
    if x.ndim != axes or x.shape[-1] != last:
        raise ValueError(f"{name} {tuple(x.shape)} is not {form}")


def _check_points(image_size: tuple[int, int], points: AnyArray, labels: AnyArray) -> None:
    if _traced(points) or _traced(labels):
        return
    points, labels = np.asarray(points), np.asarray(labels)
    strange = ~np.isin(labels, LABELS)
    if strange.any():
        raise ValueError(
            f"label {labels[strange][0]}: not one of 1 (object), 0 (background), 2 and 3 (corners"
            " of a box), -1 (no point), -10 (padding)"
        )
    real = labels >= 0
    for axis, (name, side) in enumerate((("x", image_size[1]), ("y", image_size[0]))):
        value = points[..., axis][real]
        outside = ~((value >= 0) & (value <= side))  # NaN is outside
        if outside.any():
            raise ValueError(
                f"point with {name} = {value[outside][0]:g} is outside the image: {name} is in"
                f" pixels of the model's input, 0 to {side}"
            )
    if not real.any(axis=-1).all():
        raise ValueError("a prompt has no point labelled 0 to 3; give one, or a box or a mask")


def _check_boxes(image_size: tuple[int, int], boxes: AnyArray) -> None:
    if _traced(boxes):
        return
    boxes = np.asarray(boxes)
    h, w = image_size
    inside = (boxes >= 0).all(-1) & (boxes <= np.asarray([w, h, w, h])).all(-1)
    if not inside.all():
        raise ValueError(
            f"box {boxes[~inside][0].tolist()} is outside the image: (x1, y1, x2, y2) in pixels of"
            f" the model's input, which is {w} wide and {h} high"
        )
    empty = (boxes[..., 2] <= boxes[..., 0]) | (boxes[..., 3] <= boxes[..., 1])
    if empty.any():
        raise ValueError(
            f"box {boxes[empty][0].tolist()} is empty; the order is (x1, y1, x2, y2) with x1 < x2"
            " and y1 < y2"
        )


class FourierPositions(nn.Module):
    """Random Fourier features of positions in the unit square.

    ``frequencies`` [2, D / 2] are drawn once and are never trained.
    """

    dim: int
    scale: float = 1.0

    def setup(self):
        init = nn.initializers.normal(self.scale)
        self.frequencies = self.param("frequencies", init, (2, self.dim // 2))

    def __call__(self, at: Array) -> Array:
        """at [..., 2], (x, y) with 0..1 spanning the image -> [..., D] fp32."""
        frequencies = jax.lax.stop_gradient(self.frequencies)
        angle = 2 * jnp.pi * ((2 * at - 1) @ frequencies)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

    def grid(self, size: tuple[int, int]) -> Array:
        """Positions of the cell centres of a grid: [h, w, D] fp32."""
        y, x = ((np.arange(n) + 0.5) / n for n in size)
        return self(jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), jnp.float32))


class MaskEmbedding(nn.Module):
    """Mask logits at four times the resolution of the embedding to one vector per cell."""

    dim: int
    channels: int
    eps: float
    dtype: DType = jnp.float32

    def setup(self):
        def halve(width: int) -> nn.Conv:
            return nn.Conv(width, (2, 2), strides=(2, 2), padding="VALID", dtype=self.dtype)

        self.conv1, self.conv2 = halve(self.channels // 4), halve(self.channels)
        self.conv3 = nn.Conv(self.dim, (1, 1), dtype=self.dtype)
        self.norm1, self.norm2 = (layer_norm(self.eps, self.dtype) for _ in range(2))

    def __call__(self, masks: Array) -> Array:
        """masks [M, 4h, 4w] -> [M, h, w, D]."""
        x = gelu(self.norm1(self.conv1(masks[..., None].astype(self.dtype))))
        return self.conv3(gelu(self.norm2(self.conv2(x))))


class PromptEncoder(nn.Module):
    """Points, boxes and masks to sparse tokens and a dense map."""

    config: PromptConfig
    dtype: DType = jnp.float32

    def setup(self):
        config = self.config
        vector = nn.initializers.normal(1.0)
        self.positions = FourierPositions(config.dim)
        self.labels = self.param("labels", vector, (4, config.dim))
        self.no_point = self.param("no_point", vector, (config.dim,))
        if config.masks:
            self.no_mask = self.param("no_mask", vector, (config.dim,))
            self.mask = MaskEmbedding(config.dim, config.mask_channels, config.eps, self.dtype)

    def image_positions(self) -> Array:
        """Position of every cell of the image embedding: [h, w, D]."""
        return self.positions.grid(self.config.grid).astype(self.dtype)

    def __call__(
        self,
        points: AnyArray | None = None,
        labels: AnyArray | None = None,
        boxes: AnyArray | None = None,
        masks: AnyArray | None = None,
        masks_valid: Array | None = None,
        *,
        batch: int = 1,
    ) -> Prompt:
        """Encodes the prompts.

        Args:
          points: [B, P, N, 2] (x, y) in pixels of the model's input.
          labels: [B, P, N] int32: 1 object, 0 background, 2 and 3 corners of a box, -1 no point,
            -10 absent (a prompt padded with it gives what the shorter one gives).
          boxes: [B, P, 4] (x1, y1, x2, y2) in pixels.
          masks: [B, P or 1, 4h, 4w] logits (:func:`resize_masks` brings a mask to that size).
          masks_valid: [B, P or 1] bool; False: as if there were no mask.
          batch: number of images where neither points, boxes nor masks are given.

        Raises:
          ValueError: as :func:`check_prompts`; a mask of another size, or for a model without.
        """
        config = self.config
        check_prompts(config.image_size, points, labels, boxes, masks)
        first = next((x for x in (points, boxes, masks) if x is not None), None)
        batch = batch if first is None else first.shape[0]
        sparse, valid = self._sparse(points, labels, boxes, batch)
        dense = self._dense(masks, masks_valid, batch)
        if dense is not None and dense.shape[1] not in (1, sparse.shape[1]):
            # a mask per prompt and no points: every mask gets the tokens of an empty prompt
            if sparse.shape[1] != 1:
                raise ValueError(
                    f"masks of {dense.shape[1]} prompts beside {sparse.shape[1]} prompts of points"
                    " or boxes; give one mask for all of them or one each"
                )
            sparse = jnp.repeat(sparse, dense.shape[1], axis=1)
            valid = jnp.repeat(valid, dense.shape[1], axis=1)
        return Prompt(sparse, valid, dense)

    def _sparse(self, points, labels, boxes, batch: int) -> tuple[Array, Array]:
        config = self.config
        coords, kinds = [], []
        if points is not None:
            coords.append(jnp.asarray(points, jnp.float32))
            kinds.append(jnp.asarray(labels, jnp.int32))
        if boxes is not None:
            corners = jnp.asarray(boxes, jnp.float32).reshape(*boxes.shape[:2], 2, 2)
            coords.append(corners)
            kinds.append(jnp.broadcast_to(jnp.asarray([TOP_LEFT, BOTTOM_RIGHT]), corners.shape[:3]))
        lead = (batch, coords[0].shape[1] if coords else 1)
        given = sum(c.shape[2] for c in coords)
        if config.points:
            if given > config.points:
                raise ValueError(
                    f"{given} points (a box counts two) in a prompt; this model takes at most"
                    f" {config.points}"
                )
            extra = config.points - given
        elif not coords:
            extra = config.empty_tokens
        else:
            extra = int(boxes is None or config.pad_boxes)
        if extra:
            coords.append(jnp.full((*lead, extra, 2), -1.0))
            kinds.append(jnp.full((*lead, extra), NOT_A_POINT))
        if not coords:
            return jnp.zeros((*lead, 0, config.dim), self.dtype), jnp.zeros((*lead, 0), bool)
        at, kind = jnp.concatenate(coords, axis=2), jnp.concatenate(kinds, axis=2)
        return self._embed(at, kind).astype(self.dtype), kind != ABSENT

    def _embed(self, at: Array, kind: Array) -> Array:
        """at [..., 2] pixels, kind [...] labels -> [..., D]."""
        h, w = self.config.image_size
        if self.config.add_no_point:
            at = jnp.where(kind[..., None] < 0, -1.0, at)
        position = self.positions((at + 0.5) / to_rank(jnp.asarray([w, h], jnp.float32), at))
        nowhere = to_rank(self.no_point, position) + (position if self.config.add_no_point else 0.0)
        token = jnp.where(
            (kind >= 0)[..., None], position + self.labels[jnp.clip(kind, 0, 3)], nowhere
        )
        return jnp.where((kind == ABSENT)[..., None], 0.0, token)

    def _dense(self, masks, masks_valid, batch: int) -> Array | None:
        config = self.config
        if not config.masks:
            if masks is not None:
                raise ValueError("this model has no mask prompts; give points or boxes")
            return None
        h, w = config.grid
        none = jnp.broadcast_to(self.no_mask.astype(self.dtype), (batch, 1, h, w, config.dim))
        if masks is None:
            return none
        if tuple(masks.shape[2:]) != (4 * h, 4 * w):
            raise ValueError(
                f"masks {tuple(masks.shape)}: the mask prompt of this model is {4 * h} x {4 * w};"
                " bring it there with resize_masks"
            )
        dense = self.mask(masks.reshape(-1, *masks.shape[2:]))
        dense = dense.reshape(*masks.shape[:2], h, w, config.dim)
        if masks_valid is None:
            return dense
        return jnp.where(masks_valid[..., None, None, None], dense, none)


def resize_masks(masks: Array, size: tuple[int, int]) -> Array:
    """Masks [..., H, W] to [..., h, w]: bilinear, averaging where it shrinks."""
    return jax.image.resize(masks, (*masks.shape[:-2], *size), "bilinear", antialias=True)

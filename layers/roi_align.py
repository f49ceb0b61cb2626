"""RoIAlign: a fixed-size feature patch for every box, by bilinear sampling.

Source: He et al., "Mask R-CNN" (arXiv 1703.06870), section 3; sampling rules as torchvision
defines them (``aligned`` shifts by half a cell, Detectron2's correction).

Bilinear weights, the zero outside [-1, size] and the mean over a bin's samples all factor into a
part in y and a part in x. So each box is two small matrices, [size, h] and [size, w], and the
pooling is two matrix products: no gathers, and a gradient for features and boxes alike.

The mean over the cells of one answer is an answer of one cell: ``roi_align(size=7).mean((2, 3))``
equals ``roi_align(size=1, sampling_ratio=14)[:, :, 0, 0]``, which costs a fraction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .ranks import to_rank

Array = jax.Array


def roi_align(
    features: Array,
    boxes: Array,
    *,
    size: int | tuple[int, int] = 7,
    sampling_ratio: int = 2,
    aligned: bool = True,
    mask: Array | None = None,
) -> Array:
    """Pools every box of every image to a grid of ``size`` cells.

    Args:
      features: [M, h, w, D].
      boxes: [M, K, 4] x1, y1, x2, y2 as fractions of the image's width and height; may reach
        outside [0, 1].
      size: cells per side of the answer, one number or (rows, columns).
      sampling_ratio: samples per cell and side. 0 or less is torchvision's adaptive rule, one
        sample per feature cell: ceil(box side / size), a number that differs from box to box;
        it is exact for boxes up to twice the image's side and capped beyond.
      aligned: True puts feature cell i at coordinate i + 1/2. False is the older rule: no half
        cell, and boxes are at least one feature cell wide and high.
      mask: [M, K] bool, False for slots without a box: they give zeros, whatever they hold
        (NaN included), and no gradient passes. None means every slot is a box.

    Returns:
      [M, K, rows, columns, D] in the type of ``features``.

    Raises:
      ValueError: shapes that do not fit together.
    """
    rows, cols = (size, size) if isinstance(size, int) else size
    _check(features, boxes, mask, rows, cols)
    boxes = boxes.astype(jnp.float32)
    if mask is not None:
        # Before any arithmetic: a NaN that is only masked afterwards still poisons gradients.
        boxes = jnp.where(mask[..., None], boxes, 0.0)
    height, width = features.shape[1:3]
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    in_y = _axis_weights(y1, y2, height, rows, sampling_ratio, aligned)  # [M, K, rows, h]
    in_x = _axis_weights(x1, x2, width, cols, sampling_ratio, aligned)  # [M, K, cols, w]
    if mask is not None:
        in_x = jnp.where(mask[..., None, None], in_x, 0.0)
    in_y, in_x = in_y.astype(features.dtype), in_x.astype(features.dtype)
    # Rows first, as one product with the [h, w * D] map of the image; then columns, batched over
    # (box, row). On CPU this order beats one einsum twice, and gathers ten times (K 16, 14 x 14).
    m, k, depth = *boxes.shape[:2], features.shape[-1]
    half = in_y.reshape(m, k * rows, height) @ features.reshape(m, height, width * depth)
    half = half.reshape(m, k, rows, width, depth)
    in_x = jnp.broadcast_to(in_x[:, :, None], (m, k, rows, cols, width))
    return in_x @ half


def _axis_weights(
    low: Array, high: Array, length: int, cells: int, sampling_ratio: int, aligned: bool
) -> Array:
    """Weights of one axis: box edges [...] as fractions -> [..., cells, length]."""
    start = low * length
    extent = (high - low) * length  # an empty box is exactly 0, whatever the compiler fuses
    if aligned:
        start = start - 0.5
    else:
        extent = jnp.maximum(extent, 1.0)
    step = extent / cells
    if sampling_ratio > 0:
        most = sampling_ratio
        count = jnp.full_like(step, sampling_ratio)
    else:
        most = 2 * -(-length // cells)
        count = jnp.clip(jnp.ceil(step), 0, most)
    divisor = jnp.maximum(count, 1.0)[..., None, None]
    cell = to_rank(jnp.arange(cells, dtype=jnp.float32)[:, None], divisor)
    sample = to_rank(jnp.arange(most, dtype=jnp.float32), divisor)
    # [..., cells, samples]: the centres of `count` equal parts of every cell
    at = start[..., None, None] + (cell + (sample + 0.5) / divisor) * step[..., None, None]
    taken = (sample < count[..., None, None]) & (at >= -1.0) & (at <= length)
    near = jnp.clip(at, 0.0, length - 1.0)[..., None]
    near = near - to_rank(jnp.arange(length, dtype=jnp.float32), near)
    hat = jnp.maximum(1.0 - jnp.abs(near), 0.0)
    weights = jnp.where(taken[..., None], hat, 0.0).sum(axis=-2)
    return weights / divisor


def _check(features: Array, boxes: Array, mask: Array | None, rows: int, cols: int) -> None:
    if features.ndim != 4:
        raise ValueError(f"roi_align takes features [M, h, w, D], got {list(features.shape)}")
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[0] != features.shape[0]:
        raise ValueError(
            f"roi_align takes boxes [{features.shape[0]}, K, 4] for features "
            f"{list(features.shape)}, got {list(boxes.shape)}"
        )
    if mask is not None and mask.shape != boxes.shape[:2]:
        raise ValueError(f"mask {list(mask.shape)} is not {list(boxes.shape[:2])}, as the boxes")
    if rows < 1 or cols < 1:
        raise ValueError(f"size {rows}x{cols}: at least one cell per side")

"""Frames of several shapes in one batch: SigLIP 2's NaFlex input.

    size = fit(480, 640, patch=16, most=256)           # (224, 288): resize each frame to its own
    patches, shapes = pack(frames, patch=16, length=256)
    out = model.apply(variables, patches, shapes, method=encode_packed)

Every frame keeps its proportions and is cut into at most ``length`` patches; what is left of a row
of the batch is padding that nothing attends to. Shapes are data: one compilation serves them all.

Source: Tschannen et al., SigLIP 2 (arXiv 2502.14786), section 2.4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.transformer import Taps
from ...checks import check_taps
from ..outputs import EncoderOutput
from ..vit import TAPS, ImageViT

Array = jax.Array


def fit(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The size to which a frame is resized: the largest of about its proportions, in whole patches,
    of which there are at most ``most``. Raises ValueError for sizes that are not positive."""
    if min(height, width, patch, most) < 1:
        raise ValueError(f"a frame of {height}x{width}, patch {patch}, {most} patches: at least 1")
    # the sides grow together; at each step one of them is a whole number of patches
    tall = ((n, -(-n * width // height)) for n in range(1, most + 1))
    wide = ((-(-n * height // width), n) for n in range(1, most + 1))
    rows, cols = max((s for s in (*tall, *wide) if s[0] * s[1] <= most), key=sum)
    return rows * patch, cols * patch


def pack(frames: Sequence[np.ndarray], patch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [H, W, 3], each of its own size -> (patches [B, length, patch * patch * 3], shapes
    [B, 2] int32, rows and columns of each).

    Raises ValueError for sides that are no multiples of the patch, and for too many patches.
    """
    patches = np.zeros((len(frames), length, patch * patch * 3), np.float32)
    shapes = np.zeros((len(frames), 2), np.int32)
    for i, frame in enumerate(frames):
        height, width = frame.shape[:2]
        rows, cols = height // patch, width // patch
        if frame.shape != (rows * patch, cols * patch, 3) or not 0 < rows * cols <= length:
            raise ValueError(
                f"frame {i} is {list(frame.shape)}: sides of whole patches of {patch}, {length}"
                f" of them at most; resize it to fit(height, width, {patch}, {length})"
            )
        cells = frame.reshape(rows, patch, cols, patch, 3).swapaxes(1, 2)
        patches[i, : rows * cols] = cells.reshape(rows * cols, -1)
        shapes[i] = rows, cols
    return patches, shapes


def encode_packed(model: ImageViT, patches: Array, shapes: Array, taps: Taps = ()) -> EncoderOutput:
    """Features of packed frames; call it with ``ImageViT.apply(..., method=encode_packed)``.

    Args:
      patches, shapes: of :func:`pack`, normalised as the model's card says.
      taps: as of :class:`~streamzoo.zoo.encode.vit.ImageViT`.

    Returns:
      EncoderOutput: features [B, length, D] row by row, zero where nothing is; pooled [B, D].

    Raises:
      ValueError: arrays of the wrong shape or type, a model with tokens in front of the patches
        or without a learned table of positions, unknown taps.
    """
    cfg = model.config
    check_taps(taps, TAPS)
    width = cfg.patch**2 * 3
    if cfg.prefix or cfg.positions != "learned" or cfg.pool not in ("map", "none"):
        raise ValueError("packed frames are for models of patches alone, such as siglip2-*")
    if patches.ndim != 3 or patches.shape[2] != width or shapes.shape != (len(patches), 2):
        raise ValueError(
            f"patches {list(patches.shape)} with shapes {list(shapes.shape)}: "
            f"[B, N, {width}] and [B, 2], see pack()"
        )
    if not jnp.issubdtype(patches.dtype, jnp.floating):
        raise ValueError(f"patches are {patches.dtype}: normalised floats, see the model's card")
    places = jnp.arange(patches.shape[1])
    keep = places < shapes[:, :1] * shapes[:, 1:]  # [B, N]
    x = model.patch_embed(jnp.where(keep[..., None], patches, 0))
    x = x + positions(model.table.reshape(*cfg.table, -1), shapes, len(places)).astype(x.dtype)
    x = model.norm_pre(x) if cfg.pre_norm else x
    found: dict[str, Array] = {"embedding": x} if "embedding" in taps else {}
    blocks, deep_taps = model.blocks, tuple(name for name in taps if name != "embedding")
    _, x, deep = blocks(
        blocks.init_carry(x.shape[0], 0), x[:, None], taps=deep_taps, mask=keep[:, None, None]
    )
    x, deep = x[:, 0], {name: a[:, :, 0] for name, a in deep.items()}  # frames of one each
    x = model.norm(x) if cfg.final_norm == "tokens" else x
    pooled = model.pool(x, keep) if cfg.pool == "map" else None
    return EncoderOutput(
        features=jnp.where(keep[..., None], x, 0), pooled=pooled, taps={**found, **deep} or None
    )


def positions(table: Array, shapes: Array, length: int) -> Array:
    """The table [h, w, D] resized to each of ``shapes`` [B, 2], row by row: [B, length, D].

    Bilinear with the kernel widened where the table shrinks, as ``resize_matrix(..., "bilinear",
    True)`` has it for sizes known beforehand.
    """
    rows, cols = shapes[:, :1], shapes[:, 1:]
    place = jnp.arange(length)
    down = _weights(jnp.minimum(place // cols, rows - 1), rows, table.shape[0])
    across = _weights(place % cols, cols, table.shape[1])
    both = (down[..., :, None] * across[..., None, :]).reshape(*down.shape[:2], -1)
    flat = table.astype(jnp.float32).reshape(-1, table.shape[-1])
    return jnp.matmul(both, flat, precision=jax.lax.Precision.HIGHEST)


def _weights(at: Array, new: Array, old: int) -> Array:
    """How much each of ``old`` entries counts at the places ``at`` [B, N] of ``new`` [B, 1]."""
    wide = jnp.maximum(old / new, 1.0)
    centre = (at + 0.5) * old / new - 0.5
    weights = jnp.maximum(0, 1 - jnp.abs(jnp.arange(old) - centre[..., None]) / wide[..., None])
    return weights / weights.sum(-1, keepdims=True)

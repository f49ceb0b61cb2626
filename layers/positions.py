"""Where a token stands: fixed and learned tables, rotary angles, and moving to other grids."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .ranks import to_rank

Array = jax.Array


def sincos_1d(length: int, dim: int) -> np.ndarray:
    """The sinusoid table of "Attention Is All You Need", sin and cos interleaved: [length, dim].

    VideoMAE numbers all tubelets of a clip in one such row.
    """
    rate = 1.0 / 10_000 ** (2 * (np.arange(dim) // 2) / dim)
    angle = np.arange(length)[:, None] * rate[None]
    table = np.where(np.arange(dim) % 2 == 0, np.sin(angle), np.cos(angle))
    return table.astype(np.float32)


def sincos_2d(height: int, width: int, dim: int) -> np.ndarray:
    """A quarter of the channels each for sin y, cos y, sin x, cos x: [height * width, dim].

    Raises:
      ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"2-D sin-cos positions need a width divisible by 4, not {dim}")
    rate = 1.0 / 10_000 ** (np.arange(dim // 4) / (dim // 4))
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    ay, ax = y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate
    return np.concatenate([np.sin(ay), np.cos(ay), np.sin(ax), np.cos(ax)], 1).astype(np.float32)


def resize_table(table: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """A learned table [h * w, D] on another grid, bicubic: [h' * w', D].

    Raises:
      ValueError: the table is not of the old grid.
    """
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"a table of {table.shape[0]} positions is not a {old[0]}x{old[1]} grid")
    if old == new:
        return table
    grid = table.reshape(*old, -1).astype(jnp.float32)
    grid = jax.image.resize(grid, (*new, grid.shape[-1]), "bicubic")
    return grid.reshape(new[0] * new[1], -1).astype(table.dtype)


def axial_rope(
    height: int,
    width: int,
    head: int,
    *,
    prefix: int = 0,
    base: float = 100.0,
    turn: float = np.pi,
):
    """Rotary angles of a grid: half of the head's pairs turn with y, half with x.

    Coordinates are centred and scaled to [-1, 1], so a finer grid interpolates; ``turn`` is the
    angle of the fastest pair at 1 (DINOv3, arXiv 2508.10104: 2 pi, base 100). ``prefix`` tokens in
    front (class token, registers) are not turned.

    Returns:
      cos, sin: each [prefix + height * width, head / 2].

    Raises:
      ValueError: head is not a multiple of 4.
    """
    if head % 4:
        raise ValueError(f"axial RoPE needs a head width divisible by 4, not {head}")
    rate = base ** (-np.arange(head // 4) / (head // 4))
    ys = 2 * (np.arange(height) + 0.5) / height - 1
    xs = 2 * (np.arange(width) + 0.5) / width - 1
    y, x = np.meshgrid(ys, xs, indexing="ij")
    angle = np.concatenate([y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate], axis=1) * turn
    angle = np.concatenate([np.zeros((prefix, head // 2)), angle]).astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)


def grid_rope(
    height: int, width: int, head: int, *, prefix: int = 0, base: float = 1e4, step: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rotary angles by cell number: the first half of the pairs turns with x, the other with y.

    ``prefix`` tokens in front have no place and are not turned; a cell is ``step`` from the next.
    Returns cos, sin [prefix + h * w, head / 2], for :func:`rotate_halves`.
    """
    rate = base ** (-np.arange(0, head // 2, 2) / (head // 2)) * step
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angle = np.concatenate([x.reshape(-1, 1) * rate, y.reshape(-1, 1) * rate], axis=1)
    angle = np.concatenate([np.zeros((prefix, head // 2)), angle])
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def waves(x: Array, width: int, temperature: float = 10_000.0) -> Array:
    """Sines and cosines of numbers: x [...] -> [..., width], the two alternating; 1 is a turn of
    2 pi at the fastest (Carion et al., DETR, arXiv 2005.12872)."""
    at = np.arange(width).reshape(*(1,) * x.ndim, width)
    rate = (temperature ** (2 * (at // 2) / width)).astype(np.float32)
    angle = x[..., None].astype(jnp.float32) * (2 * np.pi) / rate
    return jnp.where(at % 2 == 0, jnp.sin(angle), jnp.cos(angle))


def rotate_halves(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding: pair i is channels i and i + D / 2. x [..., D], cos and sin broadcastable
    to [..., D / 2], or to [..., D] where the channels of a pair have angles of their own (V-JEPA 2)
    -> [..., D] in fp32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = to_rank(cos, x), to_rank(sin, x)
    if cos.shape[-1] != x.shape[-1]:
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return x.astype(jnp.float32) * cos + jnp.concatenate([-b, a], axis=-1) * sin


def resize_matrix(old: int, new: int, method: str = "bicubic", antialias: bool = False):
    """Resampling along one axis as torch's ``interpolate`` does it (align_corners false).

    Published position tables were tuned with that kernel: edges repeated, cubic with a = -0.75;
    with ``antialias`` a = -0.5 and, where the axis shrinks, a kernel as much wider
    (``jax.image.resize`` is the latter; it has no other).

    Returns:
      numpy [new, old], rows add up to 1.

    Raises:
      ValueError: method is not bilinear or bicubic.
    """
    if method not in ("bilinear", "bicubic"):
        raise ValueError(f"resampling {method!r}: choose bilinear or bicubic")
    reach = 1 if method == "bilinear" else 2
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    if antialias:
        wide = max(old / new, 1.0)
        d = np.abs(np.arange(old)[None] - at[:, None]) / wide
        weights = _kernel(d, method, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    first = np.floor(at).astype(int)
    for tap in range(1 - reach, reach + 1):
        value = _kernel(np.abs(at - (first + tap)), method, -0.75)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), value)
    return weights


def _kernel(d: np.ndarray, method: str, a: float) -> np.ndarray:
    """Weight of a sample at distance d >= 0."""
    if method == "bilinear":
        return np.maximum(0.0, 1.0 - d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def resample_table(table: Array, rows: np.ndarray, cols: np.ndarray) -> Array:
    """Maps [..., h, w, D] through matrices of :func:`resize_matrix`, [h', h] and [w', w], in fp32:
    [..., h', w', D]."""
    x = table.astype(jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("rh,...hwd->...rwd", rows.astype(np.float32), x, precision=exact)
    return jnp.einsum("cw,...rwd->...rcd", cols.astype(np.float32), x, precision=exact)


def resize_cubic(x: Array, size: Sequence[int]) -> Array:
    """Maps [..., H, W, D] -> [..., h, w, D] by torch's cubic kernel, in x's type."""
    old = x.shape[-3:-1]
    if old == tuple(size):
        return x
    return resample_table(x, *map(resize_matrix, old, size)).astype(x.dtype)

"""Where a token stands: fixed and learned tables, rotary angles, and moving to other grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

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


def axial_rope(height: int, width: int, head: int, *, prefix: int = 0, base: float = 100.0):
    """Rotary angles of a grid: half of the head's pairs turn with y, half with x.

    Coordinates are centred and scaled to [-1, 1] times pi, so a finer grid interpolates (the form
    of DINOv3, arXiv 2508.10104). ``prefix`` tokens in front (registers) are not turned.

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
    angle = np.concatenate([y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate], axis=1) * np.pi
    angle = np.concatenate([np.zeros((prefix, head // 2)), angle]).astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)

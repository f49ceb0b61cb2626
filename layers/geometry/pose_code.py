"""Cameras as nine numbers: translation 3, quaternion 4 (scalar last), fields of view 2 (h, w).

Source: VGGT (Wang et al., arXiv 2503.11651), section 3.1; the rotation is world to camera.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def rotation_of(quaternion: Array) -> Array:
    """Quaternions [..., 4], scalar last, of any length above 0 -> rotations [..., 3, 3]."""
    x, y, z, w = (quaternion[..., k] for k in range(4))
    two = 2 / (quaternion * quaternion).sum(axis=-1)
    rows = [
        [1 - two * (y * y + z * z), two * (x * y - z * w), two * (x * z + y * w)],
        [two * (x * y + z * w), 1 - two * (x * x + z * z), two * (y * z - x * w)],
        [two * (x * z - y * w), two * (y * z + x * w), 1 - two * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_of(rotation: Array) -> Array:
    """Rotations [..., 3, 3] -> quaternions [..., 4], scalar last and not below 0.

    Of the four ways to write it, the one that divides by the largest number.
    """
    m = lambda i, j: rotation[..., i, j]
    trace = m(0, 0) + m(1, 1) + m(2, 2)
    squares = jnp.stack(
        [1 + 2 * m(0, 0) - trace, 1 + 2 * m(1, 1) - trace, 1 + 2 * m(2, 2) - trace, 1 + trace], -1
    )  # four times x^2, y^2, z^2, w^2
    sums = [
        [squares[..., 0], m(0, 1) + m(1, 0), m(0, 2) + m(2, 0), m(2, 1) - m(1, 2)],
        [m(0, 1) + m(1, 0), squares[..., 1], m(1, 2) + m(2, 1), m(0, 2) - m(2, 0)],
        [m(0, 2) + m(2, 0), m(1, 2) + m(2, 1), squares[..., 2], m(1, 0) - m(0, 1)],
        [m(2, 1) - m(1, 2), m(0, 2) - m(2, 0), m(1, 0) - m(0, 1), squares[..., 3]],
    ]
    ways = jnp.stack([jnp.stack(row, axis=-1) for row in sums], axis=-2)
    best = squares.argmax(axis=-1)[..., None]
    size = 2 * jnp.sqrt(jnp.maximum(jnp.take_along_axis(squares, best, axis=-1), 1e-12))
    found = jnp.take_along_axis(ways, best[..., None], axis=-2)[..., 0, :] / size
    return jnp.where(found[..., 3:] < 0, -found, found)


def encode(extrinsic: Array, focal: Array, size: tuple[int, int]) -> Array:
    """extrinsic [..., 3, 4] world to camera, focal [..., 2] (x, y) pixels -> [..., 9]."""
    half = jnp.asarray([size[0] / 2, size[1] / 2], jnp.float32)
    view = 2 * jnp.arctan(half.reshape((1,) * (focal.ndim - 1) + (2,)) / focal[..., ::-1])
    return jnp.concatenate([extrinsic[..., 3], quaternion_of(extrinsic[..., :3]), view], axis=-1)


def decode(code: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """[..., 9] -> (extrinsic [..., 3, 4], focal [..., 2] in pixels of pictures of ``size``).

    A field of view of 0 is an infinite focal length.
    """
    extrinsic = jnp.concatenate([rotation_of(code[..., 3:7]), code[..., :3, None]], axis=-1)
    half = jnp.asarray([size[1] / 2, size[0] / 2], jnp.float32)
    half = half.reshape((1,) * (code.ndim - 1) + (2,))
    return extrinsic, half / jnp.tan(code[..., :6:-1] / 2)

"""Points of two pictures that are each other's nearest, and the size of point maps.

Source: DUSt3R (Wang et al., arXiv 2312.14132); github.com/naver/dust3r, utils/geometry.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def _nearest(a: Array, b: Array) -> Array:
    """For each of a [N, D] the index of the nearest of b [M, D], int32 [N]."""
    # about one middle, so that points far from the origin keep their digits
    middle = b.mean(axis=0, keepdims=True)
    a, b = a - middle, b - middle
    exact = jax.lax.Precision.HIGHEST
    apart = (b * b).sum(axis=1)[None] - 2 * jnp.matmul(a, b.T, precision=exact)
    return apart.argmin(axis=1).astype(jnp.int32)


def reciprocal(first: Array, second: Array) -> tuple[Array, Array]:
    """For every point of ``second`` [M, D] its nearest in ``first`` [N, D], int32 [M], and whether
    it is the nearest of that one, too, bool [M]: (index, mutual)."""
    there, back = _nearest(second, first), _nearest(first, second)
    return there, back[there] == jnp.arange(second.shape[0], dtype=jnp.int32)


def size_of(points: Array, valid: Array, kind: str = "mean") -> Array:
    """How large a point cloud is: [..., N, 3], valid [..., N] -> [...], at least 1e-8.

    kind: of the distances from the origin the ``mean``, the ``median`` (the lower of two), the
    mean ``log1p``, or the squared mean of their ``sqrt``.

    Raises:
      ValueError: an unknown kind.
    """
    squares = jnp.where(valid, (points * points).sum(axis=-1), 0.0)
    far = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    count = jnp.maximum(valid.sum(axis=-1), 1).astype(far.dtype)
    mean = lambda a: jnp.where(valid, a, 0.0).sum(axis=-1) / count
    if kind == "mean":
        size = mean(far)
    elif kind == "log1p":
        size = mean(jnp.log1p(far))
    elif kind == "sqrt":
        size = mean(jnp.sqrt(far)) ** 2
    elif kind == "median":
        ordered = jnp.sort(jnp.where(valid, far, jnp.inf), axis=-1)
        middle = jnp.maximum(valid.sum(axis=-1) - 1, 0) // 2
        size = jnp.take_along_axis(ordered, middle[..., None], axis=-1)[..., 0]
        size = jnp.where(jnp.isfinite(size), size, 0.0)
    else:
        raise ValueError(f"size {kind!r}: choose mean, median, log1p or sqrt")
    return jnp.maximum(size, 1e-8)

"""Depth, point maps and focal lengths of a camera without distortion.

Sources: LASER (median), DUSt3R (arXiv 2312.14132, section 3.3: Weiszfeld), Metric3D v2 (arXiv
2404.15506: canonical camera), DepthLM (github.com/facebookresearch/DepthLM_Official: one focal
length for all pictures).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import AnyArray

Array = jax.Array
CANONICAL = 1000.0  # focal length in pixels of Metric3D's canonical camera


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """(u, v) of every pixel from the principal point: float32 [H, W] each."""
    u = jnp.arange(width, dtype=jnp.float32) - width / 2
    v = jnp.arange(height, dtype=jnp.float32) - height / 2
    return jnp.broadcast_to(u[None], (height, width)), jnp.broadcast_to(v[:, None], (height, width))


def unproject(depth: AnyArray, focal: AnyArray) -> Array:
    """depth [..., H, W], focal [..., 2] (x, y, in pixels) -> points [..., H, W, 3]."""
    depth, focal = jnp.asarray(depth), jnp.asarray(focal)
    u, v = pixel_grid(*depth.shape[-2:])
    lead = (1,) * (depth.ndim - 2)
    u, v = u.reshape(*lead, *u.shape), v.reshape(*lead, *v.shape)
    fx, fy = focal[..., 0, None, None], focal[..., 1, None, None]
    return jnp.stack([u * depth / fx, v * depth / fy, depth], axis=-1)


def _median_low(x: Array) -> Array:
    """The lower of the two middle values over the last axis, as torch takes it."""
    return jnp.sort(x, axis=-1)[..., (x.shape[-1] - 1) // 2]


def focal_by_median(points: Array) -> Array:
    """Focal lengths (x, y) of point maps [..., H, W, 3]: the medians over pixels, [..., 2]."""
    height, width = points.shape[-3:-1]
    x, y, z = (points[..., k] for k in range(3))
    lead = (1,) * (points.ndim - 3)
    u, v = (a.reshape(*lead, height, width) for a in pixel_grid(height, width))
    flat = lambda a: a.reshape(*a.shape[:-2], -1)
    return jnp.stack(
        [_median_low(flat(u * z / (x + 1e-8))), _median_low(flat(v * z / (y + 1e-8)))], axis=-1
    )


def focal_by_weiszfeld(points: Array, rounds: int = 10) -> Array:
    """One focal length of point maps [..., H, W, 3]: of least sum |(u, v) - f (x, y) / z|, [...].

    It stays between half and 3.5 times that of a view of 60 degrees, as DUSt3R's; points that tell
    nothing of a lens, such as none in front of the camera, give the one of 60 degrees.
    """
    height, width = points.shape[-3:-1]
    u, v = pixel_grid(height, width)
    pixel = jnp.stack([u, v], axis=-1).reshape(-1, 2)
    pixel = pixel.reshape(*(1,) * (points.ndim - 3), *pixel.shape)
    flat = points.reshape(*points.shape[:-3], -1, 3)
    ray = jnp.nan_to_num(flat[..., :2] / flat[..., 2:], posinf=0.0, neginf=0.0)
    both, own = (ray * pixel).sum(axis=-1), (ray * ray).sum(axis=-1)
    focal = both.mean(axis=-1) / own.mean(axis=-1)
    for _ in range(rounds):
        off = jnp.linalg.norm(pixel - focal[..., None, None] * ray, axis=-1)
        w = 1 / jnp.maximum(off, 1e-8)
        focal = (w * both).mean(axis=-1) / (w * own).mean(axis=-1)
    base = float(max(height, width) / (2 * np.tan(np.deg2rad(60.0) / 2)))
    return jnp.clip(jnp.where(jnp.isfinite(focal), focal, base), 0.5 * base, 3.5 * base)


def to_canonical(depth: Array, focal: Array, resized: float = 1.0) -> Array:
    """Metric depth as a camera of the canonical focal length would have to see it for the same
    picture. ``focal`` [...] in pixels before a picture is resized by ``resized``."""
    return depth * (CANONICAL / (focal * resized))[..., None, None]


def from_canonical(depth: Array, focal: Array, resized: float = 1.0) -> Array:
    """Undoes :func:`to_canonical`."""
    return depth * (focal * resized / CANONICAL)[..., None, None]


def unified_size(size: tuple[int, int], focal: float, wanted: float) -> tuple[int, int]:
    """(height, width) at which a picture of ``size`` has the focal length ``wanted``: whatever the
    lens was, things of one size at one distance have as many pixels then (DepthLM: 750)."""
    if not focal > 0 or not wanted > 0:
        raise ValueError(f"focal lengths {focal} and {wanted} are not above 0")
    return max(round(size[0] * wanted / focal), 1), max(round(size[1] * wanted / focal), 1)

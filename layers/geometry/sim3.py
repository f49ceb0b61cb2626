"""Similarities x -> s R x + t, and how they are found.

Sources: Kabsch (1976); Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two
Point Patterns" (TPAMI 1991); LASER (github.com/neu-vi/LASER, inference_engine/utils/geometry.py)
for poses, DUSt3R (arXiv 2312.14132) for weighted points.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
EXACT = jax.lax.Precision.HIGHEST


class Sim3(NamedTuple):
    """x -> scale * rotation @ x + shift. Leading axes are those of a batch."""

    scale: Array  # [...]
    rotation: Array  # [..., 3, 3]
    shift: Array  # [..., 3]


def identity(batch: tuple[int, ...] = ()) -> Sim3:
    """The similarity that changes nothing."""
    turn = jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), (*batch, 3, 3))
    return Sim3(jnp.ones(batch, jnp.float32), turn, jnp.zeros((*batch, 3), jnp.float32))


def compose(first: Sim3, second: Sim3) -> Sim3:
    """x -> first(second(x))."""
    turn = jnp.matmul(first.rotation, second.rotation, precision=EXACT)
    return Sim3(
        first.scale * second.scale, turn, move(first, second.shift[..., None, :])[..., 0, :]
    )


def invert(one: Sim3) -> Sim3:
    """The similarity that undoes this one."""
    back = jnp.swapaxes(one.rotation, -1, -2)
    scale = 1 / one.scale
    shift = jnp.einsum("...ij,...j->...i", back, one.shift, precision=EXACT)
    return Sim3(scale, back, -scale[..., None] * shift)


def move(one: Sim3, points: Array) -> Array:
    """points [..., N, 3] -> the same shape."""
    turned = jnp.einsum("...ij,...nj->...ni", one.rotation, points, precision=EXACT)
    return one.scale[..., None, None] * turned + one.shift[..., None, :]


def move_poses(one: Sim3, poses: Array) -> Array:
    """Camera poses [..., N, 4, 4] in the moved world: turned and shifted, never scaled inside."""
    turn = jnp.einsum("...ij,...njk->...nik", one.rotation, poses[..., :3, :3], precision=EXACT)
    centre = move(one, poses[..., :3, 3])
    top = jnp.concatenate([turn, centre[..., None]], axis=-1)
    return jnp.concatenate([top, poses[..., 3:, :]], axis=-2)


def rotation_between(source: Array, target: Array) -> Array:
    """Kabsch: the rotation R of least sum |R a - b|^2 of centred points [..., N, 3]; a reflection
    is mended on the last direction."""
    moment = jnp.einsum("...ni,...nj->...ij", source, target, precision=EXACT)
    u, _, vt = jnp.linalg.svd(moment)
    v = jnp.swapaxes(vt, -1, -2)
    turn = jnp.matmul(v, jnp.swapaxes(u, -1, -2), precision=EXACT)
    sign = jnp.where(jnp.linalg.det(turn) < 0, -1.0, 1.0).astype(turn.dtype)
    last = v[..., :, 2:] * sign[..., None, None]
    v = jnp.concatenate([v[..., :, :2], last], axis=-1)
    return jnp.matmul(v, jnp.swapaxes(u, -1, -2), precision=EXACT)


def _directions(poses: Array) -> tuple[Array, Array]:
    """(view, up) of poses [..., N, 4, 4], unit vectors in the world."""
    back, up = -poses[..., :3, 2], poses[..., :3, 1]
    unit = lambda a: a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    return unit(back), unit(up)


def register_poses(source: Array, target: Array, scale: Array) -> Sim3:
    """The similarity of a known scale that leads camera poses to camera poses, [..., N, 4, 4].

    Centres, and a point beside each along its view and its up direction, are matched, so that one
    pose is enough for a rotation.
    """

    def points(poses: Array, size: Array | None) -> tuple[Array, Array]:
        centres = poses[..., :3, 3] if size is None else size[..., None, None] * poses[..., :3, 3]
        view, up = _directions(poses)
        middle = centres.mean(axis=-2, keepdims=True)
        all_three = jnp.concatenate([centres, centres + view, centres + up], axis=-2)
        return all_three - middle, middle[..., 0, :]

    a, a0 = points(source, scale)
    b, b0 = points(target, None)
    turn = rotation_between(a, b)
    return Sim3(scale, turn, b0 - jnp.einsum("...ij,...j->...i", turn, a0, precision=EXACT))


def register_points(
    source: Array, target: Array, weight: Array | None = None, scale: Array | None = None
) -> Sim3:
    """Umeyama: the similarity of least sum w |s R a + t - b|^2, points [..., N, 3], w [..., N].

    scale: a known one, [...]; None estimates it.
    """
    if weight is None:
        weight = jnp.ones(source.shape[:-1], source.dtype)
    w = (weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-12))[..., None]
    a0, b0 = (w * source).sum(axis=-2), (w * target).sum(axis=-2)
    a, b = source - a0[..., None, :], target - b0[..., None, :]
    turn = rotation_between(w * a, b)
    if scale is None:
        moved = jnp.einsum("...ij,...nj->...ni", turn, a, precision=EXACT)
        size = jnp.maximum((w * a * a).sum(axis=(-1, -2)), 1e-12)
        scale = (w * moved * b).sum(axis=(-1, -2)) / size
    middle = jnp.einsum("...ij,...j->...i", turn, a0, precision=EXACT)
    return Sim3(scale, turn, b0 - scale[..., None] * middle)


def rigid_inverse(pose: Array) -> Array:
    """Of rotations and shifts [..., 3 or 4, 4]: [..., 4, 4]. Camera to world and back."""
    turn = pose[..., :3, :3].swapaxes(-1, -2)
    shift = -jnp.matmul(turn, pose[..., :3, 3:], precision=EXACT)
    row = jnp.asarray([0, 0, 0, 1], pose.dtype).reshape(*(1,) * (pose.ndim - 1), 4)
    row = jnp.broadcast_to(row, (*pose.shape[:-2], 1, 4))
    return jnp.concatenate([jnp.concatenate([turn, shift], axis=-1), row], axis=-2)

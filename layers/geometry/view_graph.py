"""Cameras and points of N views, from point maps of every pair of them.

A network of two views says the points of both in the camera of the first. Of all pairs the surest
ones that join all views are taken, a spanning tree. From its surest pair on, each pair is laid by
a similarity upon the points of the view that it shares with those before it.

Source: DUSt3R (Wang et al., arXiv 2312.14132), section 3.4; github.com/naver/dust3r,
cloud_opt/init_im_poses.py. What is here is the start of its alignment, without the descent that
follows it there; and where a camera is told by no pair of the tree, DUSt3R asks PnP: here the
points that a view has in its own camera are laid upon those it has in the world.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..ranks import to_rank
from .sim3 import EXACT, Sim3, move, register_points

Array = jax.Array


class Pairs(NamedTuple):
    """Point maps of ordered pairs (i, j), in the camera of i. A pair (i, i) counts with one view
    alone."""

    own: Array  # [N, N, h, w, 3] of view i
    other: Array  # [N, N, h, w, 3] of view j
    own_sure: Array  # [N, N, h, w] above 0, the larger the surer
    other_sure: Array  # [N, N, h, w]


class Views(NamedTuple):
    """Views in the world of the first one's camera, of unknown scale."""

    points: Array  # [N, h, w, 3]
    poses: Array  # [N, 4, 4] camera to world
    depth: Array  # [N, h, w] along the optical axis
    partner: Array  # [N] int32, with which view it was laid there


class _Tree(NamedTuple):
    """What has been laid so far."""

    points: Array
    partner: Array
    done: Array  # [N] bool


def align_views(pairs: Pairs) -> Views:
    """Joins all pairs of N views; jit-able, and for batches under ``vmap``."""
    count = pairs.own.shape[0]
    score = pairs.own_sure.mean((-1, -2)) * pairs.other_sure.mean((-1, -2))
    if count > 1:
        score = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, score)
    both = jnp.maximum(score, score.T)
    a, b = jnp.divmod(score.argmax().astype(jnp.int32), jnp.int32(count))
    points = jnp.zeros_like(pairs.own[0]).at[b].set(pairs.other[a, b]).at[a].set(pairs.own[a, b])
    partner = jnp.zeros(count, jnp.int32).at[a].set(b).at[b].set(a)
    done = jnp.zeros(count, bool).at[a].set(True).at[b].set(True)

    def grow(_: int, tree: _Tree) -> _Tree:
        """The surest pair of a view that is laid and one that is not."""
        reach = jnp.where(tree.done[:, None] & ~tree.done[None], both, -jnp.inf)
        old, new = jnp.divmod(reach.argmax().astype(jnp.int32), jnp.int32(count))
        ahead = score[old, new] >= score[new, old]
        shared = jnp.where(ahead, pairs.own[old, new], pairs.other[new, old])
        sure = jnp.where(ahead, pairs.own_sure[old, new], pairs.other_sure[new, old])
        brought = jnp.where(ahead, pairs.other[old, new], pairs.own[new, old])
        laid = _lay(shared, tree.points[old], sure)
        placed = move(laid, brought.reshape(-1, 3)).reshape(brought.shape)
        return _Tree(
            tree.points.at[new].set(placed),
            tree.partner.at[new].set(old),
            tree.done.at[new].set(True),
        )

    points, partner, _ = jax.lax.fori_loop(0, count - 2, grow, _Tree(points, partner, done))
    each = jnp.arange(count, dtype=jnp.int32)
    camera = _lay(pairs.own[each, partner], points, pairs.own_sure[each, partner])
    back = camera.rotation[0].T  # the first camera becomes the world
    turn = jnp.matmul(back, camera.rotation, precision=EXACT)
    into = lambda x: jnp.einsum(
        "ij,...j->...i", back, x - to_rank(camera.shift[0], x), precision=EXACT
    )
    centre, points = into(camera.shift), into(points)
    last = jnp.broadcast_to(jnp.asarray([[[0, 0, 0, 1]]], jnp.float32), (count, 1, 4))
    poses = jnp.concatenate([jnp.concatenate([turn, centre[..., None]], -1), last], -2)
    depth = jnp.einsum(
        "ni,nhwi->nhw", turn[..., 2], points - centre[:, None, None], precision=EXACT
    )
    return Views(points, poses, depth, partner)


def _lay(source: Array, target: Array, sure: Array) -> Sim3:
    """The similarity from maps [..., h, w, 3] to maps, weighted [..., h, w]."""
    lead = sure.shape[:-2]
    flat = lambda x: x.reshape(*lead, -1, 3)
    return register_points(flat(source), flat(target), sure.reshape(*lead, -1))

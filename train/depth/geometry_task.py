"""Learning cameras, depth and points of a stream, through the carry that it will run with.

Source: Wang et al., VGGT (arXiv 2503.11651), section 3.4: sure maps pay for their errors, unsure
ones for being unsure; gradients of the depth; a Huber loss of the cameras. The unit of length is
ours: the mean distance of what the first frame sees, since a stream knows no more when it begins.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ...layers.geometry import pose_code
from ...layers.geometry.pinhole import unproject
from ...layers.geometry.sim3 import rigid_inverse
from ...layers.streaming import AnyArray, Carry, Params
from ...zoo.ranges import Checked, Weight
from ..base import ModelTask
from ..depth_losses import gradient_loss
from ..tasks import prepared
from ..types import Batch, Loss

Array = jax.Array
DOUBT = 0.2  # price of being unsure, VGGT's alpha


@dataclasses.dataclass(frozen=True)
class GeometryConfig(Checked):
    """Weights of the terms.

    Attributes:
      camera: of the code of the camera.
      depth, points: of the maps.
      edges: of the gradients of the logarithm of depth, over four scales.
    """

    camera: Weight = 5.0
    depth: Weight = 1.0
    points: Weight = 1.0
    edges: Weight = 0.5


class Truth(NamedTuple):
    """What is there, in the world and the unit of the first frame."""

    depth: Array  # [B, T, H, W]
    points: Array  # [B, T, H, W, 3]
    camera: Array  # [B, T, 9]


def in_first_frame(depth: AnyArray, poses: AnyArray, focal: AnyArray) -> Truth:
    """Truth of depth [B, T, H, W] in metres, poses [B, T, 4, 4] camera to world, focal [B, 2]."""
    depth, poses, focal = (jnp.asarray(a, jnp.float32) for a in (depth, poses, focal))
    own = unproject(depth, focal[:, None])
    unit = jnp.linalg.norm(own[:, 0], axis=-1).mean(axis=(1, 2))
    wide = lambda n: unit.reshape(-1, *(1,) * n)
    here = rigid_inverse(poses[:, :1]) @ poses
    turn, place = here[..., :3, :3], here[..., :3, 3]
    points = jnp.einsum("btij,bthwj->bthwi", turn, own) + place[:, :, None, None]
    extrinsic = rigid_inverse(here)[..., :3, :]  # world to camera
    extrinsic = extrinsic.at[..., 3].divide(wide(2))
    lens = jnp.broadcast_to(focal[:, None], (*depth.shape[:2], 2))
    camera = pose_code.encode(extrinsic, lens, (depth.shape[2], depth.shape[3]))
    return Truth(depth / wide(3), points / wide(4), camera)


def unsure_loss(error: Array, certainty: Array) -> Array:
    """Mean of certainty x error - :data:`DOUBT` x log certainty, over all pixels."""
    return (certainty * error - DOUBT * jnp.log(certainty)).mean()


class LearnGeometry(ModelTask):
    """The task; see ``loop.Task``. Batches are those of :class:`.films.Films`; every clip begins a
    stream."""

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        c, frames = self.config, prepared(batch["frames"], self.card)
        want = in_first_frame(batch["depth"], batch["poses"], batch["focal"])
        carry = self.model.init_carry(frames.shape[0], frames.shape[2:4])
        _, out = self.model.apply({"params": {**params, **constants}}, carry, frames)
        depth = unsure_loss(jnp.abs(out.depth - want.depth), out.certainty)
        away = jnp.sqrt(((out.points - want.points) ** 2).sum(axis=-1) + 1e-8)
        points = unsure_loss(away, out.points_certainty)
        known = jnp.ones(out.depth.shape, bool)
        edges = gradient_loss(jnp.log(out.depth), jnp.log(want.depth), known).mean()
        camera = (
            optax.losses.huber_loss(out.camera, want.camera, delta=0.1).sum(axis=-1).mean() / 0.1
        )
        total = c.camera * camera + c.depth * depth + c.points * points + c.edges * edges
        told = {"camera": camera, "depth": depth, "points": points, "edges": edges}
        return total, (memory, told)

"""How well a stream's depth and camera path are known, on a film whose truth is exact. Host code.

One scale for a whole film is free: the model's unit is the first frame's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.geometry import pose_code
from ...layers.geometry.sim3 import rigid_inverse
from ...layers.streaming import Params
from ...zoo.registry import Card
from ..data.world import Shot
from ..metrics import depth_error, trajectory_error
from ..tasks import prepared


class Found(NamedTuple):
    """What a model says of T frames."""

    depth: np.ndarray  # [T, H, W]
    certainty: np.ndarray  # [T, H, W]
    poses: np.ndarray  # [T, 4, 4] camera to the first frame's


def poses_of(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Camera to world, [T, 4, 4], of codes [T, 9]."""
    return np.asarray(rigid_inverse(pose_code.decode(jnp.asarray(codes), size)[0]))


def answers(
    model: Any, variables: Params, card: Card, frames: np.ndarray, keep: bool = True
) -> Found:
    """Of a film uint8 [T, H, W, 3], frame by frame; without ``keep`` every frame begins anew."""
    step = jax.jit(lambda v, c, x: model.apply(v, c, prepared(x, card)))
    fresh = model.init_carry(1, frames.shape[1:3])
    carry, rows = fresh, []
    for frame in frames:
        after, out = step(variables, carry, jnp.asarray(frame[None, None]))
        carry = after if keep else fresh
        rows.append(tuple(np.asarray(a[0, 0]) for a in (out.depth, out.certainty, out.camera)))
    depth, certainty, codes = (np.stack(a) for a in zip(*rows, strict=True))
    return Found(depth, certainty, poses_of(codes, frames.shape[1:3]))


def in_metres(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Depth times the one scale that fits best for all frames: the median of truth / depth."""
    return depth * np.median(truth / depth)


def jumps(depth: np.ndarray, truth: np.ndarray) -> float:
    """Mean change of a frame's own scale to the next one's, as a share."""
    scale = np.log(np.median((truth / depth).reshape(len(depth), -1), axis=1))
    return float(np.abs(np.diff(scale)).mean())


def measured(model: Any, variables: Params, card: Card, film: Shot) -> dict[str, float]:
    """abs_rel, d1, jumps, and ate: root mean square error of the camera's place in metres, after
    the best similarity; straying: what a path that stays where it is has."""
    found = answers(model, variables, card, film.frames)
    error = depth_error(in_metres(found.depth, film.depth), film.depth)
    centres = film.poses[:, :3, 3]
    return {
        "abs_rel": error.abs_rel, "d1": error.d1, "jumps": jumps(found.depth, film.depth),
        "ate": trajectory_error(found.poses[:, :3, 3], centres),
        "straying": float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())),
    }  # fmt: skip

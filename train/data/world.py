"""A world of textured walls and boxes, some of which move, seen by a camera that is known exactly.

Every pixel is a ray; the nearest of the room's walls and of all boxes is what it sees. Depth, pose,
focal length and what moves are exact, so that depth, cameras and drift can be measured and learned
without a recording.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

SKY = 1000.0  # metres, in place of infinity
FLOOR = 3  # the surface below


class Shot(NamedTuple):
    """T frames of a world."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    depth: np.ndarray  # float32 [T, H, W] along the optical axis, metres
    poses: np.ndarray  # float32 [T, 4, 4] camera to world
    focal: np.ndarray  # float32 [2] pixels (x, y)
    moving: np.ndarray  # bool [T, H, W]: a thing that moves by itself
    surface: np.ndarray  # int16 [T, H, W]: 0 to 5 the room's walls, then the boxes


@dataclasses.dataclass(frozen=True)
class World:
    """What there is, drawn from a seed.

    Attributes:
      size: (height, width) of the pictures.
      boxes: things in the room; ``moving`` of them go to and fro.
      room: half its extent in metres: across, down, along.
      view: horizontal field of view in degrees.
      still: the camera does not move.
      round: the first so many of the things that stand still are ellipsoids in place of boxes.
      nearest: metres from the room's middle at which the first thing can stand, along the room;
        the camera begins at -5.
      sky: there are no walls and no ceiling but a sky, :data:`SKY` metres away.
    """

    seed: int = 0
    size: tuple[int, int] = (72, 96)
    boxes: int = 8
    moving: int = 2
    room: tuple[float, float, float] = (5.0, 2.0, 8.0)
    view: float = 70.0
    still: bool = False
    round: int = 0
    nearest: float = 1.5
    sky: bool = False

    def shoot(self, frames: int, rate: float = 15.0) -> Shot:
        """``frames`` pictures at ``rate`` per second."""
        rng = np.random.default_rng(self.seed)
        room = np.asarray(self.room)
        half = rng.uniform(0.25, 0.9, (self.boxes, 3))
        middle = rng.uniform(-0.8, 0.8, (self.boxes, 3)) * room
        middle[:, 1] = room[1] - half[:, 1]  # they stand on the floor
        middle[:, 2] = np.abs(middle[:, 2]) * 0.7 + self.nearest  # most of them in front
        swing = np.zeros((self.boxes, 3))
        swing[: self.moving, :3:2] = rng.uniform(0.5, 1.5, (self.moving, 2))
        pace, phase = rng.uniform(0.5, 1.5, self.boxes), rng.uniform(0, 6, self.boxes)
        colours = rng.uniform(40, 230, (6 + self.boxes, 3))
        grain = rng.uniform(1.0, 4.0, 6 + self.boxes)
        focal = self.size[1] / 2 / np.tan(np.deg2rad(self.view) / 2)
        path = rng.uniform(0, 6, 6)
        shots = []
        for n in range(frames):
            time = n / rate
            at = middle + swing * np.sin(pace * time + phase)[:, None]
            pose = self._pose(0.0 if self.still else time, path)
            shots.append(self._picture(pose, focal, room, at, half, colours, grain))
        pictures, depth, surface, poses = zip(*shots, strict=True)
        surface = np.stack(surface)
        moves = (surface >= 6) & (surface < 6 + self.moving)
        return Shot(
            np.stack(pictures), np.stack(depth), np.stack(poses),
            np.asarray([focal, focal], np.float32), moves, surface,
        )  # fmt: skip

    def _pose(self, time: float, path: np.ndarray) -> np.ndarray:
        """A walk: sideways and forward, looking about a little."""
        centre = np.asarray([
            1.5 * np.sin(0.35 * time + path[0]) - 1.5 * np.sin(path[0]),
            0.3 * np.sin(0.5 * time + path[1]),
            -5.0 + 1.5 * (1 - np.cos(0.25 * time)),
        ])  # fmt: skip
        turn, tilt = 0.25 * np.sin(0.3 * time + path[2]), 0.06 * np.sin(0.4 * time + path[3])
        c, s, d, e = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
        across = np.asarray([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        down = np.asarray([[1, 0, 0], [0, d, -e], [0, e, d]])
        pose = np.eye(4, dtype=np.float32)
        pose[:3, :3], pose[:3, 3] = across @ down, centre
        return pose

    def _picture(self, pose, focal, room, middle, half, colours, grain):
        height, width = self.size
        u, v = np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2)
        local = np.stack([u / focal, v / focal, np.ones_like(u)], -1)
        ray, start = local @ pose[:3, :3].T.astype(float), pose[:3, 3].astype(float)
        ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
        # the room from inside: the nearest wall ahead on each axis
        walls = (np.sign(ray) * room - start) / ray
        axis = walls.argmin(-1)
        far = np.take_along_axis(walls, axis[..., None], -1)[..., 0]
        ahead = np.take_along_axis(ray, axis[..., None], -1)[..., 0] > 0
        surface, normal = 2 * axis + ahead, axis.copy()
        heaven = surface != FLOOR if self.sky else np.zeros(surface.shape, bool)
        far = np.where(heaven, SKY, far)
        bend = range(self.moving, self.moving + self.round)
        for k, (at, size) in enumerate(zip(middle, half, strict=True)):
            enter, hit, side = (_ball if k in bend else _box)(ray, start, at, size)
            hit &= (enter > 0.05) & (enter < far)
            far = np.where(hit, enter, far)
            surface = np.where(hit, 6 + k, surface)
            normal = np.where(hit, side, normal)
            heaven &= ~hit
        point = start + far[..., None] * ray
        for k in range(len(middle)):  # a texture goes with its thing
            point = np.where((surface == 6 + k)[..., None], point - middle[k], point)
        shade = _texture(point * grain[surface][..., None], normal)
        light = np.asarray([0.75, 1.0, 0.88])[normal]
        picture = colours[surface] * (shade * light)[..., None]
        if self.sky:  # paler towards the horizon, without stains
            up = np.clip(-ray[..., 1] / np.linalg.norm(ray, axis=-1), 0, 1)[..., None]
            pale = (1 - up) * np.asarray([225.0, 228, 232]) + up * colours[0] * [0.6, 0.8, 1.1]
            picture = np.where(heaven[..., None], pale, picture)
        depth = far.astype(np.float32)  # the ray is 1 long along the optical axis
        return np.clip(picture, 0, 255).astype(np.uint8), depth, surface.astype(np.int16), pose


def _box(ray, start, at, size):
    """Where rays [H, W, 3] enter a box: (distance, they do, the axis of that side)."""
    sides = np.sort(np.stack([(at - size - start) / ray, (at + size - start) / ray]), axis=0)
    enter, leave = sides[0].max(-1), sides[1].min(-1)
    return enter, enter < leave, sides[0].argmax(-1)


def _ball(ray, start, at, size):
    """The same of an ellipsoid; the axis is the one that its surface faces most."""
    d, o = ray / size, (start - at) / size
    a, b, c = (d * d).sum(-1), d @ o, o @ o - 1
    inside = b * b - a * c
    enter = (-b - np.sqrt(np.maximum(inside, 0))) / a
    facing = np.abs((o + enter[..., None] * d) / size)
    return enter, inside > 0, facing.argmax(-1)


def _texture(point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Smooth stains and a few lines, from where on its surface a point is: 0.5 to 1.1."""
    other = [(normal + k) % 3 for k in (1, 2)]
    a, b = (np.take_along_axis(point, k[..., None], -1)[..., 0] for k in other)
    stains = np.sin(1.7 * a + 0.6 * np.sin(2.3 * b)) * np.sin(1.3 * b + 0.8 * np.sin(1.9 * a))
    lines = (np.abs((a % 2) - 1) < 0.06) | (np.abs((b % 2) - 1) < 0.06)
    return 0.85 + 0.2 * stains - 0.2 * lines

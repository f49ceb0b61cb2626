"""Drift and flicker of the bundled depth student on drawn worlds, and its memory over 5,000 frames.

The student says an inverse depth in units of 1 / 5 m, roughly; what the tables take is 5 / inverse.
Windows get the true cameras, each window's with an error of 1 cm and a world of its own: the
student says none.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo import zoo
from streamzoo.layers.geometry.window_align import Window
from streamzoo.streaming.windowed import WindowAlign
from streamzoo.train.data.world import Shot, World
from streamzoo.train.depth.measure import errors
from streamzoo.train.tasks import prepared

NAME = "depth-nano/worlds"
METRES, FINE, SEEDS = 5.0, 4, 1_000_100  # of its unit; rows that are left out; the first seed
FRAMES, SIZE, OVERLAP, POSE, LONG = 120, 20, 5, 0.01, 5000
Rows = dict[str, tuple[float, float, float]]


class Student:
    """The student, frame by frame."""

    def __init__(self) -> None:
        self.model: Any
        self.model, self.variables = zoo.load(NAME)
        self.card = zoo.model_card(NAME)
        apply = self.model.apply
        self.step = jax.jit(lambda v, c, x: apply(v, c, prepared(x, self.card)))
        raw = lambda m, x: m.frame.find(x).depth
        self.alone = jax.jit(lambda v, x: apply(v, prepared(x, self.card), method=raw))

    def answers(self, frames: np.ndarray, steady: bool) -> np.ndarray:
        """Inverse depth [T, H, W] of a film."""
        carry, found = self.model.init_carry(1, frames.shape[1:3]), []
        for frame in frames:
            if steady:
                carry, out = self.step(self.variables, carry, jnp.asarray(frame[None, None]))
                found.append(np.asarray(out.depth[0, 0]))
            else:
                found.append(np.asarray(self.alone(self.variables, jnp.asarray(frame[None]))[0]))
        return np.stack(found)


def coarse(shot: Shot) -> Shot:
    """Every fourth row and column."""
    cut = lambda a: a[:, ::FINE, ::FINE]
    return Shot(cut(shot.frames), cut(shot.depth), shot.poses, shot.focal / FINE,
                cut(shot.moving), cut(shot.surface))  # fmt: skip


def joined(shot: Shot, depth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(depth, camera centres) of windows that were joined, layers by scales of their own."""
    rng = np.random.default_rng(seed)

    def model(frames: np.ndarray) -> tuple[Window, np.ndarray]:
        first = int(frames[0, 0, 0, 0]) + 256 * int(frames[0, 0, 0, 1])
        cut = slice(first, first + len(frames))
        poses = np.linalg.inv(shot.poses[first]) @ shot.poses[cut]
        size = float(np.median(depth[cut] / shot.depth[cut]))
        poses[:, :3, 3] = size * (poses[:, :3, 3] + POSE * rng.normal(size=(len(poses), 3)))
        sure = rng.random(depth[cut].shape).astype(np.float32)
        return Window(depth[cut], sure, poses.astype(np.float32)), shot.focal

    numbers = [np.asarray([[[n % 256, n // 256, 0]]], np.uint8) for n in range(len(depth))]
    align = WindowAlign(model, SIZE, OVERLAP, 8)
    out = [placed for one in numbers for placed in align.push(one)] + align.flush()
    return np.stack([p.depth for p in out]), np.stack([p.pose[:3, 3] for p in out])


def measure(student: Student, still: bool, seed: int) -> tuple[Rows, tuple[float, float]]:
    """Rows of the table, and (AbsRel, share within 1.25) of steady maps, each aligned by itself."""
    from .drift import row

    size = student.card.input_size
    shot = World(SEEDS + seed, size, still=still, nearest=0.0).shoot(FRAMES)
    near = coarse(shot)
    maps = {steady: student.answers(shot.frames, steady) for steady in (False, True)}
    metres = {
        steady: METRES / np.maximum(m[:, ::FINE, ::FINE], METRES / 100)
        for steady, m in maps.items()
    }
    rows = {
        "per frame": row(metres[False], near, None),
        "temporal": row(metres[True], near, None),
    }
    depth, centres = joined(near, metres[False].astype(np.float32), seed)
    rows["windows joined, layers"] = row(depth, near, None if still else centres)
    error = errors(maps[True], shot)
    return rows, (error["abs_rel"], error["d1"])


def long_run(
    step: Callable[[Any, jax.Array], tuple[Any, Any]], carry: Any, frames: np.ndarray
) -> tuple[int, int, float]:
    """Of 5,000 frames, those of a film again and again: (bytes of the carry, the same after them,
    MB that the process grew by meanwhile, after the first tenth)."""
    count = lambda c: sum(a.nbytes for a in jax.tree.leaves(c))
    first, before, sound = count(carry), 0, jnp.asarray(True)
    for n in range(LONG):
        carry, out = step(carry, jnp.asarray(frames[None, n % len(frames), None]))
        sound &= jnp.isfinite(out.depth).all()
        if n == LONG // 10:
            sound.block_until_ready()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert bool(sound)
    grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return first, count(carry), grew / 1024


def page(table: Callable[[list[Rows]], list[str]]) -> list[str]:
    """The part of the page that is the student's."""
    student = Student()
    text = ["", f"# The trained student, `{NAME}`", "",
            "On drawn worlds of other seeds; windows get true cameras, 1 cm off."]  # fmt: skip
    for still, title in ((True, "The camera stands still"), (False, "The camera walks")):
        found = [measure(student, still, seed) for seed in range(3)]
        text += ["", f"## {title}", "", *table([rows for rows, _ in found]), ""]
        low, high = (tuple(f(e[k] for _, e in found) for k in (0, 1)) for f in (min, max))
        text.append(
            f"Each map with the best scale and shift of its inverse: AbsRel {low[0]:.1%} to "
            f"{high[0]:.1%}, within a factor of 1.25 {low[1]:.1%} to {high[1]:.1%} of the pixels."
        )
    size = (96, 128)
    film = World(SEEDS, size).shoot(16).frames
    step = lambda carry, x: student.step(student.variables, carry, x)
    first, last, grew = long_run(step, student.model.init_carry(1, size), film)
    text += ["", f"Over {LONG} frames of 96 x 128 the carry has {first} bytes, then {last}; the "
             f"process grew by {grew:.1f} MB after the first tenth."]  # fmt: skip
    return text

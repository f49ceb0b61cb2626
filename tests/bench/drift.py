"""Drift and flicker of depth on drawn worlds, by method.

    python -m tests.bench.drift

Truth is exact (``train.data.world``). In the first tables the depth model is simulated, and its
errors are known: every frame, or every window, has a scale of its own (log-normal, 10 %); near and
far things are off by different factors (5 %); single pixels are noisy (2 %). What they compare is
what is done about that; no network is in it. The others are of ``depth-nano/worlds``, on worlds of
a kind that it learned from and with seeds that it did not (:mod:`.drift_student`). Three seeds;
lowest and highest of them.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.layers.geometry.window_align import Window
from streamzoo.streaming.windowed import WindowAlign
from streamzoo.train.data.world import Shot, World
from streamzoo.train.depth.geometry_measure import in_metres, jumps
from streamzoo.train.metrics import depth_error, trajectory_error
from streamzoo.zoo.depth.temporal.model import TemporalDepth, TemporalDepthConfig, blurred, steady

FRAMES, SIZE, OVERLAP = 120, 20, 5
SCALE, LAYER, NOISE, POSE = 0.10, 0.05, 0.02, 0.01
OUT = Path(__file__).parent / "results" / "drift.md"


def spoilt(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth [T, H, W] as the simulated model says it, with one scale and one set of layers."""
    scale, near = np.exp(SCALE * rng.normal()), np.exp(LAYER * rng.normal())
    off = np.where(depth < np.median(depth), near, 1 / near)
    return (scale * off * depth * np.exp(NOISE * rng.normal(size=depth.shape))).astype(np.float32)


def per_frame(shot: Shot, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([spoilt(one[None], rng) for one in shot.depth])


def temporal(shot: Shot, raw: np.ndarray) -> np.ndarray:
    config = TemporalDepthConfig()
    state = TemporalDepth(config).init_carry(1, shot.depth.shape[1:])
    run = jax.jit(steady, static_argnums=0)
    pictures = blurred(jnp.asarray((shot.frames / 255.0 - 0.45) / 0.225, jnp.float32))
    out = []
    for one, picture in zip(raw, pictures, strict=True):
        state, depth, _ = run(config, state, one[None], picture[None])
        out.append(np.asarray(depth[0]))
    return np.stack(out)


def windows(shot: Shot, seed: int, layers: int, join: bool = True):
    """(depth, camera centres) of windows of the simulated model, joined or just put in a row."""
    rng = np.random.default_rng(seed)

    def model(frames: np.ndarray) -> tuple[Window, np.ndarray]:
        first = int(frames[0, 0, 0, 0]) + 256 * int(frames[0, 0, 0, 1])
        cut = slice(first, first + len(frames))
        depth = spoilt(shot.depth[cut], rng)
        poses = shot.poses[cut].copy()
        size = float(np.median(depth / shot.depth[cut]))
        # each window has a world of its own, that of its first camera
        poses = np.linalg.inv(poses[0]) @ poses
        poses[:, :3, 3] *= size
        poses[:, :3, 3] += POSE * size * rng.normal(size=(len(poses), 3))
        sure = rng.random(depth.shape).astype(np.float32)
        return Window(depth, sure, poses.astype(np.float32)), shot.focal

    numbers = [np.asarray([[[n % 256, n // 256, 0]]], np.uint8) for n in range(len(shot.depth))]
    if not join:
        depth, centres, world = [], [], np.eye(4)
        for first in range(0, len(numbers), SIZE):
            window, _ = model(np.stack(numbers[first : first + SIZE]))
            poses = world @ window.poses
            depth.append(window.depth)
            centres.append(poses[:, :3, 3])
            world = poses[-1]
        return np.concatenate(depth), np.concatenate(centres)
    align = WindowAlign(model, SIZE, OVERLAP, layers)
    out = [placed for one in numbers for placed in align.push(one)] + align.flush()
    return np.stack([p.depth for p in out]), np.stack([p.pose[:3, 3] for p in out])


def row(depth: np.ndarray, shot: Shot, centres: np.ndarray | None) -> tuple[float, float, float]:
    """(AbsRel after one scale for the whole video, jumps, trajectory error in metres)."""
    error = depth_error(np.maximum(in_metres(depth, shot.depth), 1e-3), shot.depth).abs_rel
    path = np.nan if centres is None else trajectory_error(centres, shot.poses[:, :3, 3])
    return error, jumps(depth, shot.depth), path


def measure(still: bool, seed: int) -> dict[str, tuple[float, float, float]]:
    shot = World(seed=seed, still=still, size=(48, 64)).shoot(FRAMES)
    raw = per_frame(shot, np.random.default_rng(seed))
    rows = {"per frame": row(raw, shot, None), "temporal": row(temporal(shot, raw), shot, None)}
    for name, layers, join in (
        ("windows in a row", 1, False),
        ("windows joined", 1, True),
        ("windows joined, layers", 8, True),
    ):
        depth, centres = windows(shot, seed, layers, join)
        rows[name] = row(depth, shot, None if still else centres)
    return rows


def table(found: list[dict[str, tuple[float, float, float]]]) -> list[str]:
    """Rows of Markdown: lowest and highest of the seeds."""
    text = ["| method | AbsRel | jumps | ATE |", "|---|---|---|---|"]
    for name in found[0]:
        cells = []
        for k, unit in enumerate(("%", "%", "m")):
            values = [one[name][k] for one in found]
            if np.isnan(values).any():
                cells.append("-")
            elif unit == "%":
                cells.append(f"{min(values):.1%} to {max(values):.1%}")
            else:
                cells.append(f"{min(values):.3f} to {max(values):.3f}")
        text.append(f"| {name} | {' | '.join(cells)} |")
    return text


def main() -> None:
    from . import drift_student

    text = [
        "# Drift and flicker of depth, by method",
        "",
        f"`python -m tests.bench.drift`: drawn worlds of {FRAMES} frames, 48 x 64, 2 of 8 boxes",
        f"move; a simulated depth model, no network (scale {SCALE:.0%} per frame or window, layers",
        f"{LAYER:.0%}, noise {NOISE:.0%}, cameras {POSE * 100:g} cm); windows of {SIZE} frames,",
        f"{OVERLAP} shared. Lowest and highest of three seeds. AbsRel after one scale for the",
        "whole video; jumps: mean change of a frame's scale to the next; ATE: root mean square",
        "error of the camera path after the best similarity, metres.",
    ]
    for still, title in ((True, "The camera stands still"), (False, "The camera walks")):
        found = [measure(still, seed) for seed in range(3)]
        text += ["", f"## {title}", "", *table(found)]
    text += drift_student.page(table)
    OUT.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()

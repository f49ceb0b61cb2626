"""Drift of a causal VGGT that was learned here, beside what else can be done with its weights.

    for seed in 0 1 2; do python -m streamzoo.train --config configs/geometry_worlds.py \
        --set loop.seed=$seed loop.out=runs/geometry/$seed; done
    python -m tests.bench.geometry_student runs/geometry/{0,1,2}/weights.safetensors

Films are of rooms that nothing learned from, 48 x 64, 120 frames at 5 per second. One network, four
ways to read a film with it: every frame alone; the same made steady (``TemporalDepth``); windows of
8 frames, 3 shared, all views at once, joined as LASER does; and as the stream that it learned to
be. One scale for a whole film is free.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo import zoo
from streamzoo.layers.geometry.window_align import Window
from streamzoo.streaming.windowed import WindowAlign, window_of
from streamzoo.train.data.world import Shot
from streamzoo.train.depth.films import RATE, room
from streamzoo.train.depth.geometry_measure import answers, in_metres, jumps
from streamzoo.train.depth.recipe import HELD_OUT
from streamzoo.train.metrics import depth_error, trajectory_error
from streamzoo.train.tasks import prepared
from streamzoo.zoo.depth.vggt.model import VGGT

from .drift import temporal

NAME, FILMS, FRAMES, SIZE, OVERLAP, LONG = "vggtstream-nano", 6, 120, 8, 3, 5000
OUT = Path(__file__).parent / "results" / "geometry_student"
Row = tuple[float, float, float]  # AbsRel, jumps, ATE


def row(depth: np.ndarray, poses: np.ndarray | None, film: Shot) -> Row:
    error = depth_error(in_metres(depth, film.depth), film.depth).abs_rel
    path = np.nan
    if poses is not None:
        path = trajectory_error(poses[:, :3, 3], film.poses[:, :3, 3])
    return error, jumps(depth, film.depth), path


class Offline:
    """All views of a window at once, with the stream's weights."""

    def __init__(self, model: Any, variables: Any):
        card, offline = zoo.model_card(NAME), VGGT(model.config)
        self.apply = jax.jit(lambda x: offline.apply(variables, prepared(x, card)))

    def __call__(self, frames: np.ndarray) -> tuple[Window, np.ndarray]:
        return window_of(self.apply(jnp.asarray(frames[None])))


def methods(model: Any, variables: Any, offline: Offline, film: Shot) -> dict[str, Row]:
    card = zoo.model_card(NAME)
    alone = answers(model, variables, card, film.frames, keep=False).depth
    align = WindowAlign(offline, SIZE, OVERLAP, 8)
    placed = [p for frame in film.frames for p in align.push(frame)] + align.flush()
    stream = answers(model, variables, card, film.frames)
    still = np.broadcast_to(np.eye(4), film.poses.shape)
    return {
        "the truth's mean depth, a camera that stays": row(np.ones_like(film.depth), still, film),
        "every frame alone": row(alone, None, film),
        "temporal": row(temporal(film, alone), None, film),
        "windows joined": row(
            np.stack([p.depth for p in placed]), np.stack([p.pose for p in placed]), film
        ),
        "the stream": row(stream.depth, stream.poses, film),
        "the stream, last quarter": row(
            stream.depth[-FRAMES // 4 :],
            stream.poses[-FRAMES // 4 :],
            Shot(*(getattr(film, f)[-FRAMES // 4 :] if f != "focal" else film.focal
                   for f in Shot._fields)),
        ),
    }  # fmt: skip


def long_run(model: Any, variables: Any) -> dict[str, float]:
    """Bytes of the carry before and after 5,000 frames, and MB that the process grew by after the
    first tenth."""
    card, frames = zoo.model_card(NAME), room(HELD_OUT, model.config.image_size).shoot(16).frames
    step = jax.jit(lambda c, x: model.apply(variables, c, prepared(x, card)), donate_argnums=0)
    carry = model.init_carry(1, frames.shape[1:3])
    count = lambda c: sum(a.nbytes for a in jax.tree.leaves(c))
    first, before, sound = count(carry), 0, jnp.asarray(True)
    for n in range(LONG):
        carry, out = step(carry, jnp.asarray(frames[None, n % 16, None]))
        sound &= jnp.isfinite(out.depth).all() & jnp.isfinite(out.camera).all()
        if n == LONG // 10:
            sound.block_until_ready()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert bool(sound)
    grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"first": first, "last": count(carry), "grew_mb": grew / 1024}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("weights", nargs="+", help="files of runs with different seeds")
    files = p.parse_args().weights
    model, rows = zoo.create_model(NAME), []
    films = [room(HELD_OUT + n, model.config.image_size).shoot(FRAMES, RATE) for n in range(FILMS)]
    variables: Any = None
    for file in files:
        variables = zoo.load_weights(file)
        offline = Offline(model, variables)
        found = [methods(model, variables, offline, film) for film in films]
        rows.append({k: np.nanmean([f[k] for f in found], axis=0).tolist() for k in found[0]})
        print(file, json.dumps(rows[-1]), flush=True)
    kept = {"films": FILMS, "frames": FRAMES, "seeds": rows, "long": long_run(model, variables)}
    OUT.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    about = (__doc__ or "").split("\n\n")[2].splitlines()
    text = ["# A causal VGGT, learned from drawn rooms", "", *about,
            "", f"Means over {FILMS} films; lowest and highest of {len(rows)} training seeds.", "",
            "| method | AbsRel | jumps | ATE, m |", "|---|---|---|---|"]  # fmt: skip
    for name in rows[0]:
        columns = list(zip(*(r[name] for r in rows), strict=True))
        cells = [f"{min(c):.1%} to {max(c):.1%}" for c in columns[:2]]
        cells.append("-" if np.isnan(columns[2]).any() else
                     f"{min(columns[2]):.3f} to {max(columns[2]):.3f}")  # fmt: skip
        text.append(f"| {name} | {' | '.join(cells)} |")
    long = kept["long"]
    text += ["", f"Over {LONG} frames the carry has {long['first']} bytes, then {long['last']}; the"
             f" process grew by {long['grew_mb']:.1f} MB after the first tenth."]  # fmt: skip
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()

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
from streamzoo.train.depth.geometry_measure import answers
from streamzoo.train.depth.recipe import HELD_OUT
from streamzoo.train.tasks import prepared
from streamzoo.zoo.depth.vggt.model import VGGT

from .drift import row, table, temporal
from .drift_student import LONG, long_run

NAME, FILMS, FRAMES, SIZE, OVERLAP = "vggtstream-nano", 6, 120, 8, 3
OUT = Path(__file__).parent / "results" / "geometry_student"
Row = tuple[float, float, float]  # AbsRel, jumps, ATE


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
    path, last = stream.poses[:, :3, 3], slice(-FRAMES // 4, None)
    late = film._replace(depth=film.depth[last], poses=film.poses[last])
    return {
        "one depth everywhere, a camera that stays": row(
            np.ones_like(film.depth), film, np.zeros_like(path)
        ),
        "every frame alone": row(alone, film, None),
        "temporal": row(temporal(film, alone), film, None),
        "windows joined": row(
            np.stack([p.depth for p in placed]), film, np.stack([p.pose[:3, 3] for p in placed])
        ),
        "the stream": row(stream.depth, film, path),
        "the stream, last quarter": row(stream.depth[last], late, path[last]),
    }


def remembered(model: Any, variables: Any) -> tuple[int, int, float]:
    """See :func:`.drift_student.long_run`."""
    card, size = zoo.model_card(NAME), model.config.image_size
    step = jax.jit(lambda c, x: model.apply(variables, c, prepared(x, card)), donate_argnums=0)
    return long_run(step, model.init_carry(1, size), room(HELD_OUT, size).shoot(16).frames)


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
        rows.append({k: np.asarray([f[k] for f in found]).mean(axis=0).tolist() for k in found[0]})
        print(file, json.dumps(rows[-1]), flush=True)
    first, end, grew = remembered(model, variables)
    long = {"first": first, "last": end, "grew_mb": grew}
    kept = {"films": FILMS, "frames": FRAMES, "seeds": rows, "long": long}
    OUT.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    about = (__doc__ or "").split("\n\n")[2].splitlines()
    text = ["# A causal VGGT, learned from drawn rooms", "", *about, "",
            f"Means over {FILMS} films; lowest and highest of {len(rows)} training seeds. ATE in"
            " metres.", "", *table(rows), "",
            f"Over {LONG} frames the carry has {first} bytes, then {end}; the process grew by"
            f" {grew:.1f} MB after the first tenth."]  # fmt: skip
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()

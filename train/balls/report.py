"""What the chain reached: distance, class and diversity over many horizons, for each memory."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.rollout import Levels, Rollout
from ...layers.streaming import Json, Params
from ...zoo.files import load_file
from ...zoo.generate.balls.names import CONFIG, stream
from ...zoo.generate.balls.picture import CLASSES, condition
from ...zoo.generate.generator import Generator
from ...zoo.resolve import load
from .chain import Chain, sampled
from .clips import FRAMES, clips
from .measure import Drift, drift, reference, seen

HORIZONS = 10
LONG = FRAMES * HORIZONS
MEMORIES = {"3 sinks, 6 frames": (3, 6), "9 frames": (0, 9), "3 frames": (0, 3)}


def rolled(
    module: Any, variables: Params, value: Rollout, streams: int, blocks: int, seed: int,
    told: np.ndarray | None = None, first_only: bool = False,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """(latents [B, F, 32] of streams that are told nothing or a class, seconds of a late block).

    first_only: the class is told to the first block alone, and only memory knows it afterwards.
    """
    generator = Generator(module, variables, value)
    state = generator.start(streams, seed=seed)
    nothing = np.zeros((streams, 1, CONFIG.text_dim), np.float32)
    made, took = [], []
    for i in range(blocks):
        began = time.perf_counter()
        now = nothing if told is None or (first_only and i) else told
        state, out = generator.step(state, now)
        made.append(np.asarray(out.latents).reshape(streams, CONFIG.block, -1))
        took.append(time.perf_counter() - began)
    return np.concatenate(made, axis=1), float(np.median(took[len(took) // 2 :]))


def finer(value: Rollout, passes: int) -> Rollout:
    """The same with so many denoising passes."""
    even = np.linspace(1000, 0, passes + 1)[:-1].round().astype(int)
    levels = Levels.few(*(int(t) for t in even), shift=value.levels.shift)
    return dataclasses.replace(value, levels=levels)


def row(found: Drift) -> Json:
    """What the table says of one rollout."""
    return {
        "distance of the first window": round(found.distance[0], 3),
        "of the last": round(found.distance[-1], 3),
        "largest": round(max(found.distance), 3),
        "growth": round(found.growth, 2),
        "growth over a bounce": round(found.bounce_growth, 2),
        "class kept": round(found.kept[-1], 3),
        "rarest class": round(min(found.last), 3),
        "commonest class": round(max(found.last), 3),
        "jumps": round(found.jumps, 3),
        "change at a block's border": round(found.seam, 2),
    }


def report(chain: Chain, streams: int) -> Json:
    """Everything that is measured of one seed, also printed."""
    real = reference()
    of = lambda name: jax.tree.map(jnp.asarray, load_file(chain.out / f"{name}.safetensors")[0])
    teacher, causal, student = of("teacher"), of("causal"), of("student")
    key, rows = jax.random.key(1000 + chain.seed), {}

    def told(name: str, found: Any) -> None:
        rows[name] = found
        chain.log(f"{name}: {found}")

    times = jnp.broadcast_to(jnp.arange(LONG, dtype=jnp.float32), (streams, LONG))
    told("real", row(drift(np.asarray(clips(key, times)[0]).reshape(streams, LONG, -1), real)))
    whole = seen(sampled(chain, teacher, streams, 24, key)).classes
    votes = np.asarray([np.bincount(r, minlength=4).argmax() for r in whole])
    told("teacher, frames of the clip's class", round(float((whole == votes[:, None]).mean()), 3))
    blocks, seed, model = LONG // CONFIG.block, 2000 + chain.seed, chain.model
    for stage, variables in (("causal", causal), ("student", student)):
        for memory, (sinks, recent) in MEMORIES.items():
            latents, _ = rolled(model, variables, stream(sinks, recent), streams, blocks, seed)
            told(f"{stage}, 4 passes, {memory}", row(drift(latents, real)))
        if stage == "causal":
            for memory in ("3 sinks, 6 frames", "9 frames"):
                value = finer(stream(*MEMORIES[memory]), 12)
                latents, _ = rolled(model, variables, value, streams, blocks, seed)
                told(f"causal, 12 passes, {memory}", row(drift(latents, real)))
    classes = np.arange(streams) % 4
    given = np.concatenate([condition(CLASSES[c], CONFIG.text_dim) for c in classes])
    for first_only in (False, True):
        latents, _ = rolled(model, student, stream(), streams, blocks, seed, given, first_only)
        right = float((seen(latents).classes == classes[:, None]).mean())
        name = "student told a class" + " in its first block" * first_only
        told(name, {**row(drift(latents, real)), "frames of that class": round(right, 3)})
    for memory in ("3 sinks, 6 frames", "9 frames"):
        value = stream(*MEMORIES[memory])
        latents, _ = rolled(model, student, value, streams // 4, 10 * blocks, seed)
        told(f"student, {memory}, 100 horizons", row(drift(latents, real)))
    _, took = rolled(model, student, stream(), 1, 60, seed)
    told("frames per second of one stream", round(CONFIG.block / took, 1))
    return rows


def noises(name: str, streams: int, count: int, log: Callable[[str], None]) -> list[Json]:
    """Drift of named weights over 10 horizons, with the first block in memory: a row for each of
    ``count`` noises, also printed."""
    module, variables = load(name)
    real, rows = reference(), []
    for seed in range(1, count + 1):
        latents, _ = rolled(module, variables, stream(), streams, LONG // CONFIG.block, seed)
        rows.append(row(found := drift(latents, real)))
        log(f"noise {seed}: {rows[-1]}; windows {[round(d, 3) for d in found.distance]}")
    return rows


COLUMNS = (
    "distance of the first window",
    "of the last",
    "growth",
    "growth over a bounce",
    "class kept",
    "rarest class",
    "commonest class",
    "jumps",
    "change at a block's border",
)


def table(reports: Sequence[Path]) -> str:
    """Markdown of the reports of several seeds: the mean, and in brackets the range."""
    seeds = [json.loads(path.read_text()) for path in reports]
    lines = [
        f"Seeds: {len(seeds)}.",
        "",
        "| rollout | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    rest = []
    for name, first in seeds[0].items():
        if not isinstance(first, dict):
            rest.append(f"- {name}: {spread([seed[name] for seed in seeds])}")
            continue
        cells = [spread([seed[name][column] for seed in seeds]) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if "frames of that class" in first:
            told = [seed[name]["frames of that class"] for seed in seeds]
            rest.append(f"- {name}, frames of that class: {spread(told)}")
    return "\n".join([*lines, "", *rest])


def spread(values: Sequence[float]) -> str:
    """The mean of a number over seeds, and where it lies."""
    mean = f"{sum(values) / len(values):.3g}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.3g} to {max(values):.3g})"

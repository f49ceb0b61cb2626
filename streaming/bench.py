"""How fast a model's step is, against its teacher's sliding window, in one run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ..layers.streaming import Json
from ..zoo.registry import create_model, model_config
from ..zoo.resolve import card_of
from ..zoo.traits import unrolled
from ..zoo.weights import init_params
from .budget import operations
from .step import Step


@dataclasses.dataclass
class Row:
    """One model at one batch size. A step is one new frame of every stream."""

    model: str
    batch: int
    compile_s: float
    ms_per_step: float  # median
    ms_p90: float
    frames_per_s: float
    gflops_per_frame: float  # XLA's cost analysis of the step with layers unrolled
    carry_bytes: int  # of one stream
    params: int
    ratio: float | None = None  # teacher's ms / this model's ms, same batch, same run


class Runner:
    """A compiled step with its carry and random frames, ready to be timed."""

    def __init__(self, name: str, batch: int, dtype: str | None = None, seed: int = 0, **config):
        if dtype is not None:
            config["dtype"] = dtype
        self.name, self.batch = name, batch
        self.config = config
        card = card_of(name, **config)
        # speed is the same with any weights, and a file's own model is that of its header
        model: Any
        model, params = init_params(card.name, seed=seed, **card.overrides)
        self.params = params
        self.step = Step(model, params, card)
        size = model.config.image_size
        start = time.perf_counter()
        self.step.compile(batch, 1, size)
        self.compile_s = time.perf_counter() - start
        self.carry = self.step.init_carry(batch, size)
        self.carry_bytes = sum(a.nbytes for a in jax.tree.leaves(self.carry)) // batch
        rng = np.random.default_rng(seed)
        # Random and different every time: zeros or repeats would flatter caches and branches.
        self.frames = [
            jax.device_put(rng.integers(0, 256, (batch, 1, *size, 3), np.uint8)) for _ in range(4)
        ]
        self.times: list[float] = []
        self.steps = 0

    def tick(self) -> float:
        """One step; seconds until the answer is there."""
        frames = self.frames[self.steps % len(self.frames)]
        start = time.perf_counter()
        self.carry, out = self.step(self.carry, frames)
        jax.block_until_ready((self.carry, out))
        self.steps += 1
        return time.perf_counter() - start

    def gflops(self) -> float:
        """GFLOPs per frame by XLA's cost analysis, layers unrolled."""
        card = self.step.card
        flat = unrolled(model_config(card.name, **card.overrides))
        model: Any = create_model(card.name, **{**card.overrides, **flat})
        return operations(model, self.params, card, self.frames[0].shape[2:4]) / 1e9


def measure(
    names: Iterable[str],
    batches: Iterable[int] = (1,),
    *,
    teacher: str | None = None,
    dtype: str | None = None,
    config: Mapping[str, Json] | None = None,
    repeats: int = 20,
    warm: int = 2,
    seconds: float = 60.0,
    progress: Any = None,
) -> list[Row]:
    """Times models in turns (one step each, round after round), so that noise hits all alike.

    Args:
      teacher: a streaming name whose sliding window the others are compared with.
      config: fields to override, by model name: ``{"tsa-s16": {"image_size": (128, 128)}}``.
      repeats: timed rounds; fewer where ``seconds`` per batch size run out (at least 3).
      progress: called with one line of text now and then.

    Raises:
      UnknownModelError: and ValueError for an offline model, which has no step.
    """
    names = list(dict.fromkeys([*names, *([teacher] if teacher else [])]))
    for name in names:
        if not card_of(name).streaming:
            raise ValueError(
                f"{name} is offline and has no step; its stream is "
                f"{name.split('/')[0].replace('-', '-window-', 1)}"
            )
        if card_of(name).task == "generate":
            raise ValueError(f"{name} makes video and has no step that answers a frame")
    say = progress or (lambda _: None)
    if unknown := sorted(set(config or {}) - set(names)):
        raise ValueError(f"config for models that are not measured: {', '.join(unknown)}")
    rows = []
    gflops: dict[str, float] = {}
    for batch in batches:
        runners = []
        for name in names:
            say(f"compiling {name}, batch {batch}")
            runners.append(Runner(name, batch, dtype, **(config or {}).get(name, {})))
            if name not in gflops:  # per frame, whatever the batch
                gflops[name] = runners[-1].gflops()
        end = time.perf_counter() + seconds
        for runner in runners:
            for _ in range(warm):
                runner.tick()
        for turn in range(repeats):
            if turn >= 3 and time.perf_counter() > end:
                break
            say(f"batch {batch}: round {turn + 1} of {repeats}")
            for runner in runners:
                runner.times.append(runner.tick())
        medians = {r.name: float(np.median(r.times)) for r in runners}
        for r in runners:
            median = medians[r.name]
            rows.append(
                Row(
                    model=r.name,
                    batch=batch,
                    compile_s=r.compile_s,
                    ms_per_step=1e3 * median,
                    ms_p90=1e3 * float(np.percentile(r.times, 90)),
                    frames_per_s=batch / median,
                    gflops_per_frame=gflops[r.name],
                    carry_bytes=r.carry_bytes,
                    params=sum(a.size for a in jax.tree.leaves(r.params)),
                    ratio=medians[teacher] / median if teacher else None,
                )
            )
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = (
        "| model | batch | ms / step | p90 | frames/s | vs teacher | GFLOPs / frame "
        "| carry / stream | params | compile |"
    )
    lines = [head, "|" + "---|" * 10]
    for r in rows:
        ratio = f"{r.ratio:.1f}x" if r.ratio is not None else "-"
        lines.append(
            f"| {r.model} | {r.batch} | {r.ms_per_step:.1f} | {r.ms_p90:.1f} "
            f"| {r.frames_per_s:.1f} | {ratio} | {r.gflops_per_frame:.2f} "
            f"| {r.carry_bytes / 1024:.1f} KiB | {r.params / 1e6:.1f} M | {r.compile_s:.1f} s |"
        )
    return "\n".join(lines)

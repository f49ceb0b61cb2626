"""One model in every runtime and precision that there is here, in turns."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from ..zoo import init_params, load
from ..zoo.resolve import card_of
from ..zoo.streams import as_stream
from .precision import FAST, TAKES, RuntimeRefused, processor
from .slim import slim
from .step import Step

FRAMES = 8  # different frames, shown in turn


class Entrant:
    """A step with its carry, ready to be timed."""

    def __init__(self, step: Step, batch: int, frames: list[np.ndarray]):
        self.step, self.frames = step, frames
        self.carry = step.init_carry(batch)
        self.times: list[float] = []
        self.busy = 0.0  # seconds of all cores

    def answers(self) -> list[np.ndarray]:
        """The floats of the answers to every frame, from a fresh carry."""
        found = []
        for frame in self.frames:
            self.carry, out = self.step(self.carry, frame)
            leaves = jax.tree.leaves(jax.device_get(slim(out)))
            found += [a for a in leaves if np.issubdtype(a.dtype, np.floating)]
        return found

    def tick(self, number: int) -> None:
        """One timed step."""
        busy, start = time.process_time(), time.perf_counter()
        self.carry, out = self.step(self.carry, self.frames[number % len(self.frames)])
        jax.block_until_ready((self.carry, out))
        self.times.append(time.perf_counter() - start)
        self.busy += time.process_time() - busy

    @property
    def bytes(self) -> int:
        """Of the weights as the runtime reads them."""
        if self.step.runtime == "jax":
            return sum(a.nbytes for a in jax.tree.leaves(self.step.params))
        return max(program.bytes for program in self.step._programs.values())


def runtimes_table(
    name: str, batch: int = 1, *, repeats: int = 20, progress: Any = None, **overrides: Any
) -> str:
    """A Markdown table: ms (median), frames/s, cores, difference from fp32 in JAX, bytes; and what
    could not run, and why. Names without weights get random ones."""
    say = progress or (lambda _: None)
    card = card_of(name, **overrides)
    random = name == card.name and not card.pretrained
    model, params = init_params(name, **overrides) if random else load(name, **overrides)
    model = as_stream(model, card)
    rng = np.random.default_rng(0)
    shape = (batch, 1, *card.input_size, 3)
    frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(FRAMES)]
    ready: dict[tuple[str, str], Entrant] = {}
    known: dict[tuple[str, str], list[np.ndarray]] = {}
    refused = []
    for runtime, precisions in TAKES.items():
        for precision in precisions:
            say(f"preparing {name} in {runtime} {precision}")
            try:
                step = Step(model, params, card, runtime=runtime, precision=precision)
                entrant = Entrant(step, batch, frames)
                known[runtime, precision] = entrant.answers()
                ready[runtime, precision] = entrant
            except RuntimeRefused as error:
                refused.append(f"{runtime} {precision}: {error}")
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for entrant in ready.values():
            entrant.tick(number)
    exact = known["jax", "fp32"]
    weights = "random weights, " if random else ""
    features = sorted(set().union(*FAST.values()) & processor())
    lines = [
        f"{name}, batch {batch}, {weights}noise; processor: {', '.join(features) or 'fp32 only'}",
        "",
        "| runtime | precision | ms / step | frames/s | cores | largest difference | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, entrant in ready.items():
        median = float(np.median(entrant.times))
        gap = max(
            float(np.abs(a - b).max()) for a, b in zip(known[key], exact, strict=False) if a.size
        )
        cores = entrant.busy / sum(entrant.times)
        lines.append(
            f"| {key[0]} | {key[1]} | {1e3 * median:.1f} | {batch / median:.1f} | {cores:.1f} "
            f"| {gap:.2g} | {entrant.bytes / 1e6:.1f} |"
        )
    return "\n".join([*lines, *("" for _ in refused[:1]), *refused])

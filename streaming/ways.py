"""Branches of a model for a target of time: picture sizes, precisions, frames that are left out.

How accurate a branch is is how near its answers come to those of the step as it is, on a film: 1
less the root mean square of the difference in standard deviations of the answers. Frames that are
left out have the answer of the last computed one. It is no metric of a task: where one is known,
give it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from ..layers.streaming import looks_across, takes_elapsed
from .choice import spread_of
from .elapsed import Elapsed
from .engine.gears import Branches, Way
from .precision import RuntimeRefused
from .slim import slim
from .step import Step
from .variants import Size, Variant, answers_alike, shrunk

SHARES = (1.0, 0.75, 0.5)  # of the sides of a picture
EVERY = (1, 2, 4)
FILM = 12  # frames on which branches are compared
CELL = 32  # sides are multiples of it, where the whole one is


def branches_of(
    step: Step,
    size: Size,
    film: Iterable[np.ndarray],
    *,
    shares: Sequence[float] = SHARES,
    precisions: Sequence[str] = ("bf16",),
    every: Sequence[int] = EVERY,
    say: Callable[[str], None] = lambda _: None,
) -> Branches:
    """What a step can be exchanged for while a stream runs.

    Args:
      size: (height, width) of the pictures.
      film: uint8 [h, w, 3] of that size, one after the other; noise stands in for too few.
      shares, precisions, every: what is tried; the step as it is, is always there.

    A size or a precision whose carry or answer is of other arrays is left out: streams could not
    go to it and back.

    Raises:
      ValueError: a model that looks across streams, which all have to be in one batch.
    """
    if looks_across(step.model):
        raise ValueError(f"{step.card.name} looks across streams: it has one way to be computed")
    shown = _film(size, film)
    exact = _answers(step, shown, size)
    variants: list[Variant] = []
    ways = [Way(_name(size, step.precision, k), 0, k, _near(exact, exact, k)) for k in every]
    for share in shares:
        smaller = _scaled(size, share)
        for precision in (step.precision, *precisions):
            if (smaller, precision) == (size, step.precision):
                continue
            try:
                other = step if precision == step.precision else _narrow(step, precision)
            except RuntimeRefused:
                continue
            if not answers_alike(step, other, size, smaller):
                continue
            say(f"comparing {_name(smaller, precision, 1)} with the model as it is")
            found = _answers(other, shown, smaller)
            variants.append(Variant(other, smaller))
            number = len(variants)
            ways += [
                Way(_name(smaller, precision, k), number, k, _near(exact, found, k)) for k in every
            ]
    return Branches(tuple(variants), tuple(ways))


def _narrow(step: Step, precision: str) -> Step:
    return Step(step.model, step.params, step.card, runtime=step.runtime, precision=precision)


def _name(size: Size, precision: str, every: int) -> str:
    rate = "" if every == 1 else f", every {every}"
    return f"{size[0]} x {size[1]} {precision}{rate}"


def _scaled(size: Size, share: float) -> Size:
    cell = CELL if all(side % CELL == 0 for side in size) else 2
    height, width = (max(cell, round(share * side / cell) * cell) for side in size)
    return height, width


def _film(size: Size, film: Iterable[np.ndarray]) -> np.ndarray:
    found = [np.asarray(p) for p, _ in zip(film, range(FILM), strict=False)]
    if len(found) < FILM:
        return np.random.default_rng(0).integers(0, 256, (FILM, *size, 3), np.uint8)
    return np.stack(found)


def _answers(step: Step, film: np.ndarray, size: Size) -> list[list[np.ndarray]]:
    """The floats of the answer to each frame, from a fresh carry of pictures of the film's size."""
    carry, found = step.init_carry(1, (film.shape[1], film.shape[2])), []
    told = Elapsed(None)
    extras = {"elapsed": np.full((1, 1), told(None), np.int32)} if takes_elapsed(step.model) else {}
    for frame in film:
        carry, out = step(carry, shrunk(frame[None, None], size), **extras)
        leaves = jax.tree.leaves(jax.device_get(slim(out)))
        found.append([a for a in leaves if np.issubdtype(a.dtype, np.floating)])
    return found


def _near(exact: list[list[np.ndarray]], found: list[list[np.ndarray]], every: int) -> float:
    """1 less the spread, where each answer stands for the frames up to the next computed one."""
    held = [found[k - k % every] for k in range(len(found))]
    return max(0.0, 1.0 - spread_of(exact, held))

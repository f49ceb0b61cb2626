"""An artefact beside JAX, frame by frame: how far its answers and its state are from each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Params
from ...zoo.registry import Card
from ...zoo.segment import no_prompts
from ..sources import open_source
from . import loop, stablehlo
from .traced import leaves

FRAMES = 30


@dataclasses.dataclass(frozen=True)
class Difference:
    """Over 30 frames, each side on its own state.

    Attributes:
      answers: largest absolute difference of any answer.
      state: the same of the state.
      change: how much the answers of JAX changed from frame to frame, at most; 0 says that the
        model found nothing, and that ``answers`` proves little.
      pictures: frames that were given; the others are noise.
      prompted: an object was prompted in the first frame.
    """

    answers: float
    state: float
    change: float
    pictures: int
    prompted: bool


def pictures_of(video: str | Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames uint8 RGB [h, w, 3] of a video or a camera. Raises SourceError."""
    with open_source(video, size=size) as source:
        for frame in source:
            yield frame.image


def nothing(model: Any, batch: int) -> Any:
    """Prompts that say nothing."""
    config = model.config
    return no_prompts(batch, 1, config.objects, config.points)


def middle(model: Any, batch: int, size: tuple[int, int]) -> Any:
    """Prompts of the first object: a box around the middle of the picture."""
    prompts = nothing(model, batch)
    height, width = size
    prompts.points[:, :, 0, :2] = [(width / 4, height / 4), (width * 3 / 4, height * 3 / 4)]
    prompts.labels[:, :, 0, :2] = 2, 3  # corners
    prompts.pointed[:, :, 0] = True
    return prompts


def compare(
    card_file: Path, model: Any, params: Params, card: Card, args: tuple,
    pictures: Iterable[np.ndarray] = (),
) -> Difference:  # fmt: skip
    """Shows both the first 30 ``pictures``, filled up with noise; a tracker is told in the first
    one to follow the middle. ``args``: shapes of :func:`.artefact.arguments`."""
    artefact = loop.Artefact(card_file)
    program = stablehlo.apply
    jitted = jax.jit(lambda *a: program(model, params, card, *a))
    _, frames, valid, extras = args
    batch, _, *size, _ = frames.shape
    carry = jax.jit(lambda: model.init_carry(batch, tuple(size)))()
    state = artefact.start(batch)
    here = np.ones(valid.shape, bool)
    given = {name: np.ones(batch, bool) for name in extras if name == "active"}
    rng = np.random.default_rng(0)
    # each stream sees another part of it in the middle
    turned = lambda p: np.stack([np.roll(p, i * size[1] // batch, 1)[None] for i in range(batch)])
    shown = [turned(p) for p in itertools.islice(pictures, FRAMES)]
    noise = (rng.integers(0, 256, frames.shape, np.uint8) for _ in range(FRAMES - len(shown)))
    worst: dict[str, float] = dict.fromkeys(("answers", "state", "change"), 0.0)
    before: list[np.ndarray] = []
    for k, picture in enumerate([*shown, *noise]):
        if "prompts" in extras:
            said = nothing(model, batch) if k else middle(model, batch, tuple(size))
            given["prompts"] = said
        more = {
            leaf.name: np.asarray(a)
            for name, said in given.items()
            for leaf, a in zip(leaves(said, name), jax.tree.leaves(said), strict=True)
        }
        carry, out = jitted(carry, picture, here, given)
        state, got = artefact.step(state, picture, **more)
        answers = [plain(a) for a in jax.tree.leaves(out)]
        for name, wanted, found in (
            ("answers", answers, got.values()),
            ("state", map(plain, jax.tree.leaves(carry)), artefact.snapshot(state).values()),
            ("change", before or answers, answers),
        ):
            gaps = [distance(a, b) for a, b in zip(wanted, found, strict=True)]
            worst[name] = max(worst[name], *gaps, 0.0)
        before = answers
    return Difference(
        worst["answers"], worst["state"], worst["change"], len(shown), "prompts" in extras
    )


def plain(a: Any) -> np.ndarray:
    """As it is outside of a model: numpy has no bfloat16."""
    a = np.asarray(a)
    return a.astype(np.float32) if str(a.dtype) in ("bfloat16", "float16") else a


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; 0 where both are the same infinity."""
    if not a.size:
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    gap = np.abs(np.where(a == b, 0.0, a - np.where(a == b, 0.0, b)) * (a != b))
    return float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max())

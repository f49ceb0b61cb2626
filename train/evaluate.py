"""Runs a streaming model over labelled videos, one frame at a time through its carry, as it will
run. What its answers are worth is counted in ``metrics``.

C classes, K boxes, T frames of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers.streaming import Array, Carry, Params
from ..zoo.registry import Card
from ..zoo.traits import finds_persons
from .data.base import Source
from .data.pipeline import pad
from .metrics.persons import Found, match, persons
from .metrics.videos import Answers, box_metrics, delay_metrics, video_metrics
from .tasks import first_carry, prepared
from .types import Batch


def answers(
    model: Any,
    variables: Params,
    card: Card,
    source: Source,
    *,
    lanes: int = 16,
    clip: bool = False,
) -> Iterator[Answers]:
    """Runs a streaming model over every video of a source, boxes given.

    A model with latency L answers L steps late; its scores are moved back to their frames, the
    last frame standing in for those that never came.

    Args:
      clip: run the whole video as one clip (the same numbers, by the carry law) instead of frame
        by frame.
    """
    late = model.latency
    first = source.read(0, 0, 1)
    shape = first.frames.shape[1:]
    longest = max(source.length(i) for i in range(len(source)))
    frames = -(-(longest + late) // 8) * 8  # few shapes, few compiles

    @jax.jit
    def run(variables: Params, batch: Batch) -> Any:
        def step(carry: Carry, x: Batch) -> Any:
            x = jax.tree.map(lambda a: a[:, None], x)
            carry, out = model.apply(
                variables, carry, prepared(x["frames"], card), x["valid"],
                boxes=x["boxes"], box_valid=x["box_valid"],
            )  # fmt: skip
            return carry, out.box_logits[:, 0]

        carry = first_carry(model, len(batch["valid"]), shape)
        if clip:
            x = prepared(batch["frames"], card)
            out = model.apply(
                variables, carry, x, batch["valid"],
                boxes=batch["boxes"], box_valid=batch["box_valid"],
            )[1]  # fmt: skip
            return out.box_logits
        steps = jax.tree.map(lambda a: a.swapaxes(0, 1), batch)
        return jax.lax.scan(step, carry, steps)[1].swapaxes(0, 1)

    squash = jax.nn.sigmoid if card.multi_label else jax.nn.softmax
    for low in range(0, len(source), lanes):
        videos = [min(v, len(source) - 1) for v in range(low, low + lanes)]  # one shape
        clips = [source.read(v, 0, source.length(v)) for v in videos]
        counts = np.asarray([len(c.frames) for c in clips])
        padded = [pad(c, frames) for c in clips]
        batch = {
            name: np.stack([getattr(c, name) for c in padded])
            for name in ("frames", "boxes", "box_valid")
        }
        if late:  # boxes of the frame that is answered for
            for name in ("boxes", "box_valid"):
                batch[name] = np.roll(batch[name], late, axis=1)
        batch["valid"] = np.arange(frames) < counts[:, None] + late
        logits = run(variables, batch)
        scores = np.asarray(squash(jnp.asarray(logits, jnp.float32)))
        for i, video in enumerate(videos[: len(source) - low]):
            c, n = clips[i], counts[i]
            yield Answers(video, scores[i, late : late + n], c.box_valid, c.labels, c.labelled)


def evaluate(
    model: Any,
    variables: Params,
    card: Card,
    source: Source,
    *,
    lanes: int = 16,
    clip: bool = False,
) -> dict[str, float]:
    """Metrics of a model on a source, named by what they are.

    With several labels per box those of :func:`metrics.videos.box_metrics` and
    :func:`metrics.videos.delay_metrics`; with one label per video those of
    :func:`metrics.videos.video_metrics`. A model with a person head also gets those of
    :func:`find_persons`. Beside them stands ``lookahead_s``, the seconds that the model sees of the
    future. lanes, clip: as for :func:`answers`.

    A metric that is not defined is NaN and told as n/a: of a class without a positive, of persons
    where there are none, of delays where only keyframes are labelled (``Source.dense``), since
    nobody knows when an act began between two.
    """
    found = list(answers(model, variables, card, source, lanes=lanes, clip=clip))
    own = box_metrics if card.multi_label else video_metrics
    overall, by_class = own(found, source.classes)
    overall["lookahead_s"] = model.latency / source.frame_rate
    if finds_persons(model.config):
        overall |= find_persons(model, variables, card, source)
    if card.multi_label:
        timed = found if source.dense else []
        overall |= delay_metrics(timed, source.frame_rate, model.latency)
    return overall | by_class


def find_persons(
    model: Any, variables: Params, card: Card, source: Source, *, sure: float = 0.4, lanes: int = 16
) -> dict[str, float]:
    """How well the person head agrees with the box teacher, frame by frame, at IoU 0.5.

    The metrics are those of :func:`metrics.persons`.
    """
    longest = max(source.length(i) for i in range(len(source)))
    frames = -(-longest // 8) * 8

    @jax.jit
    def run(variables: Params, pictures: Array, valid: Array) -> Any:
        x = prepared(pictures, card)
        out = model.apply(variables, model.init_carry(len(valid)), x, valid)[1]
        return out.boxes, out.box_valid

    found = Found()
    for low in range(0, len(source), lanes):
        videos = [min(v, len(source) - 1) for v in range(low, low + lanes)]
        clips = [source.read(v, 0, source.length(v)) for v in videos]
        pictures = np.stack([pad(c, frames).frames for c in clips])
        valid = np.arange(frames) < np.asarray([len(c.frames) for c in clips])[:, None]
        boxes, there = (np.asarray(a) for a in run(variables, pictures, valid))
        for i, clip in enumerate(clips[: len(source) - low]):
            for t in range(len(clip.frames)):
                found += match(boxes[i, t][there[i, t]], clip.boxes[t], clip.persons[t], sure)
    return persons(found)

"""How good a streaming model is, one frame at a time through its carry, as it will run.

C classes, K boxes, T frames of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .data.base import Source
from .data.pipeline import pad
from .data.yolox import overlap
from .metrics.average_precision import average_precision
from .metrics.delay import detection_delay, label_runs
from .tasks import first_carry, prepared


class Answers(NamedTuple):
    """What a model said about one video, and the truth."""

    video: int
    scores: np.ndarray  # [T, K, C] probabilities
    box_valid: np.ndarray  # [T, K]
    labels: np.ndarray  # [T, K, C]
    labelled: np.ndarray  # [T, K]


def answers(
    model: Any, variables: Any, card: Any, source: Source, *, lanes: int = 16, clip: bool = False
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
    def run(variables: Any, batch: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
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


def evaluate(model: Any, variables: Any, card: Any, source: Source, **options: Any) -> dict:
    """Figures of a model on a source, named by what they are.

    With several labels per box: ``mAP`` (mean over classes of the average precision over all
    labelled boxes of all frames) and ``AP/class``. With one label per video, read off slot 0 (the
    whole frame): ``top1`` of the mean of the probabilities over the video, ``top1_last`` of the
    last frame's, ``top1_frame`` of every frame's, and ``class/...`` recall by class. A model with a
    person head also gets the figures of :func:`find_persons`.

    Beside them stand ``lookahead_s``, the seconds that the model sees of the future, and with
    several labels ``detected`` and ``delay_s``: the part of the runs of a label in which its score
    rises above 1/2, and the median time from a run's start to that (look-ahead included).
    """
    found = list(answers(model, variables, card, source, **options))
    persons: dict[str, float] = {}
    if hasattr(model.config, "person_threshold") and "person" in model.config.heads:
        persons = find_persons(model, variables, card, source)
    if card.multi_label:
        known = [a.labelled & a.box_valid for a in found]
        scores = np.concatenate([a.scores[k] for a, k in zip(found, known)])
        labels = np.concatenate([a.labels[k] for a, k in zip(found, known)])
        result = average_precision(scores, labels)
        figures = {"mAP": result.mean, "lookahead_s": model.latency / source.frame_rate}
        figures |= persons | _delay(found, source.frame_rate, model.latency)
        return figures | {
            f"AP/{name}": float(ap) for name, ap in zip(source.classes, result.per_class)
        }
    truth = np.asarray([a.labels[0, 0].argmax() for a in found])
    mean = np.asarray([a.scores[:, 0].mean(axis=0).argmax() for a in found])
    last = np.asarray([a.scores[-1, 0].argmax() for a in found])
    frame = np.concatenate([a.scores[:, 0].argmax(-1) == y for a, y in zip(found, truth)])
    figures = {
        "top1": float((mean == truth).mean()),
        "top1_last": float((last == truth).mean()),
        "top1_frame": float(frame.mean()),
        "lookahead_s": model.latency / source.frame_rate,
        **persons,
    }
    for i, name in enumerate(source.classes):
        if (truth == i).any():
            figures[f"class/{name}"] = float((mean == truth)[truth == i].mean())
    return figures


def _delay(found: list[Answers], rate: float, latency: int) -> dict[str, float]:
    how: dict[str, Any] = dict(frame_rate=rate, latency=latency, threshold=0.5)
    delays = [detection_delay(a.scores, label_runs(a.labels), **how) for a in found]
    each = np.concatenate([d.seconds for d in delays])
    hit = ~np.isnan(each)
    median = float(np.median(each[hit])) if hit.any() else float("nan")
    return {"detected": float(hit.mean()) if len(each) else float("nan"), "delay_s": median}


def find_persons(
    model: Any, variables: Any, card: Any, source: Source, *, sure: float = 0.4, lanes: int = 16
) -> dict[str, float]:
    """How well the person head agrees with the box teacher, frame by frame, at IoU 0.5.

    ``person_recall`` is the part of the boxes with a score of at least ``sure`` that the model
    finds, ``person_precision`` the part of its boxes that are one of these; a box that only matches
    a weaker one of the teacher's counts for neither.
    """
    longest = max(source.length(i) for i in range(len(source)))
    frames = -(-longest // 8) * 8

    @jax.jit
    def run(variables: Any, pictures: Any, valid: Any) -> Any:
        x = prepared(pictures, card)
        out = model.apply(variables, model.init_carry(len(valid)), x, valid)[1]
        return out.boxes, out.box_valid

    right = said = wanted = 0
    for low in range(0, len(source), lanes):
        videos = [min(v, len(source) - 1) for v in range(low, low + lanes)]
        clips = [source.read(v, 0, source.length(v)) for v in videos]
        pictures = np.stack([pad(c, frames).frames for c in clips])
        valid = np.arange(frames) < np.asarray([len(c.frames) for c in clips])[:, None]
        boxes, there = (np.asarray(a) for a in run(variables, pictures, valid))
        for i, clip in enumerate(clips[: len(source) - low]):
            for t in range(len(clip.frames)):
                scores = clip.persons[t]
                hits, counted = match(boxes[i, t][there[i, t]], clip.boxes[t], scores, sure)
                right, said, wanted = right + hits, said + counted, wanted + (scores >= sure).sum()
    return {
        "person_recall": float(right / max(wanted, 1)),
        "person_precision": float(right / max(said, 1)),
    }


def match(said: np.ndarray, boxes: np.ndarray, scores: np.ndarray, sure: float) -> tuple[int, int]:
    """Greedy one-to-one matching at IoU 0.5, best answer first: (right answers, answers counted).

    said [n, 4], boxes [K, 4], scores [K], 0 for no person.
    """
    free = scores > 0
    right = counted = 0
    for box in said:
        iou = np.where(free, overlap(box[None], boxes), 0.0)
        # a sure box is preferred to a weak one that overlaps more
        best = int(np.argmax(np.where(iou >= 0.5, iou + (scores >= sure), 0.0)))
        if iou[best] < 0.5:
            counted += 1
            continue
        free[best] = False
        if scores[best] >= sure:
            right, counted = right + 1, counted + 1
    return right, counted

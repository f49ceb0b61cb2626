"""How good a student is on a labelled split: one number per head, frame by frame."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..zoo import Card, preprocess
from .augment import look, whole
from .ucf11 import Clips
from .yolox import overlap


def score(
    model: Any, params: Any, clips: Clips, card: Card, *, batch: int = 16, sure: float = 0.4
) -> dict[str, float]:
    """Runs every clip as a live stream, one frame per call, and compares.

    sure: a detector's box counts as a person from this score on; finding a weaker one is neither
    right nor wrong.

    Returns:
      ``top1_last`` and ``top1_mean``: whole-frame class after 5 frames, and over all frames;
      ``roi_top1``: class of the sure boxes, given; ``person_recall``, ``person_precision``: boxes
      found by the student itself against the detector's, at IoU 0.5.
    """
    size = card.input_size

    @jax.jit
    def step(params, carry, frames, boxes, scores):
        crops, flip = whole(len(frames))
        view = look(
            frames[:, None], boxes[:, None], scores[:, None], None, crops, flip,
            size=size, grid=size,
        )  # fmt: skip
        x = preprocess(view.frames, card)
        given = model.apply(params, carry, x, boxes=view.boxes, box_valid=view.scores >= sure)[1]
        carry, free = model.apply(params, carry, x)
        first = lambda a: a[:, 0]  # noqa: E731
        return carry, jax.tree.map(
            first, (free.logits, given.box_logits, free.boxes, free.box_valid)
        )

    right = np.zeros(clips.scores.shape[1])
    roi: list[bool] = []
    people = np.zeros(3)  # wanted and found, wanted, said and not excused
    hits = 0
    for low in range(0, len(clips.labels), batch):
        pick = np.arange(low, low + batch).clip(max=len(clips.labels) - 1)  # one shape, one compile
        real = min(batch, len(clips.labels) - low)
        carry = model.init_carry(batch, size)
        for t in range(clips.scores.shape[1]):
            carry, out = step(
                params, carry, *(jnp.asarray(a[pick, t]) for a in (clips[0], clips[3], clips[4]))
            )
            logits, box_logits, boxes, valid = (np.asarray(a)[:real] for a in out)
            want, scores = clips.boxes[pick[:real], t], clips.scores[pick[:real], t]
            labels = clips.labels[pick[:real]]
            right[t] += (logits.argmax(-1) == labels).sum()
            roi += list((box_logits.argmax(-1) == labels[:, None])[scores >= sure])
            for b in range(real):
                found, hit = match(boxes[b][valid[b]], want[b], scores[b], sure)
                people += found, (scores[b] >= sure).sum(), 0
                hits += hit[0]
                people[2] += hit[1]
    n = len(clips.labels)
    return {
        "top1_last": float(right[-1] / n),
        "top1_mean": float(right.sum() / (n * len(right))),
        "roi_top1": float(np.mean(roi)) if roi else float("nan"),
        "person_recall": float(people[0] / max(people[1], 1)),
        "person_precision": float(hits / max(people[2], 1)),
    }


def match(
    said: np.ndarray, boxes: np.ndarray, scores: np.ndarray, sure: float
) -> tuple[int, tuple[int, int]]:
    """Greedy one-to-one matching at IoU 0.5, best answer first.

    said [n, 4], boxes [K, 4], scores [K] -> (sure boxes found, (right answers, answers counted)).
    """
    free = scores > 0
    right = counted = 0
    for box in said:
        iou = np.where(free, overlap(box[None], boxes), 0.0)
        # a sure box is preferred to a weak one that overlaps more
        best = int(np.argmax(np.where(iou >= 0.5, iou + (scores >= sure), 0.0)))
        if iou[best] < 0.5:
            counted += 1
        else:
            free[best] = False
            if scores[best] >= sure:
                right, counted = right + 1, counted + 1
    return right, (right, counted)

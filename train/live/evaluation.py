"""Runs a live model over test scenes for its metrics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Params
from ...zoo.registry import Card
from ..data.handover import Scenes
from ..tasks import prepared
from ..types import Batch
from .metrics import recognised, scene_metrics
from .task import over_scenes

Array = jax.Array
CHUNK = 8  # test scenes at once: one shape, one compile


def best_iou(boxes: Array, scores: Array, truth: Array) -> Array:
    """IoU of the most certain of boxes [..., K, 4] with truth [..., 4]."""
    best = jnp.argmax(scores, axis=-1)
    box = jnp.take_along_axis(boxes, best[..., None, None], axis=-2)[..., 0, :]
    low, high = jnp.maximum(box[..., :2], truth[..., :2]), jnp.minimum(box[..., 2:], truth[..., 2:])
    area = lambda size: jnp.prod(jnp.maximum(size, 0.0), axis=-1)
    both = area(high - low)
    one = area(box[..., 2:] - box[..., :2]) + area(truth[..., 2:] - truth[..., :2])
    return both / jnp.maximum(one - both, 1e-9)


def measure(
    model: Any, variables: Params, card: Card, scenes: Scenes, count: int, *, cross: bool = True
) -> dict[str, float]:
    """:func:`.metrics.scene_metrics` and ``recognised`` of at least ``count`` scenes, with HRM
    (``cross``) or without."""

    @jax.jit
    def run(variables: Params, batch: Batch, cross: Array) -> dict[str, Array]:
        out = over_scenes(model, variables, prepared(batch["frames"], card), cross)
        errors = lambda a: ((a[..., :-1, :] - out.features[..., 1:, :]) ** 2).sum(-1)
        return {
            "anomaly_score": out.anomaly,
            "event_score": out.event,
            "class_score": jax.nn.sigmoid(out.logits),
            "box": out.boxes,
            "found": out.box_valid,
            "box_score": out.box_scores,
            "box_class_score": jax.nn.sigmoid(out.box_logits),
            "iou": best_iou(out.boxes, out.box_scores, batch["boxes"][..., 0, :]),
            "future": errors(out.next_features),
            "repeat": errors(out.features),
        }

    rows, on = [], jnp.asarray(cross)
    for index in range(-(-count // CHUNK)):
        lanes = [scenes.scene(index, lane) for lane in range(CHUNK)]
        batch = {name: np.stack([one[name] for one in lanes]) for name in lanes[0]}
        answers = {name: np.asarray(a) for name, a in run(variables, batch, on).items()}
        rows.append({**{n: a for n, a in batch.items() if n != "frames"}, **answers})
    return scene_metrics(rows) | recognised(rows)

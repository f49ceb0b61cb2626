"""The losses of a live model's scores, next feature and likeness of cameras."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .. import losses
from ..losses import masked_mean
from ..micro import of_step
from ..types import Batch

Array = jax.Array


def score_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy of a probability's logits, element by element."""
    return jax.nn.softplus(logits) - target * logits


def future_loss(expected: Array, features: Array) -> tuple[Array, Array]:
    """(squared error of the expected next features, the same of repeating the last one).

    expected, features [..., T, E] -> scalars; features are targets and get no gradient.
    """
    features = jax.lax.stop_gradient(features)
    after = features[..., 1:, :]
    miss = lambda a: ((a[..., :-1, :] - after) ** 2).mean()
    return miss(expected), miss(features)


def match_loss(scores: Array, looks: Array, known: Array) -> Array:
    """Cross-entropy of "the same actor", the two answers weighed alike.

    scores [..., N, N] log-odds, symmetric or not; looks [N] int; known [..., N] bool: this camera
    has shown its actor. A camera is not compared with itself. Scalar.
    """
    pair = known[..., :, None] & known[..., None, :] & ~jnp.eye(len(looks), dtype=bool)
    same = looks[:, None] == looks[None, :]
    pair, same = (jnp.broadcast_to(a, scores.shape) for a in (pair, same))
    total = jnp.float32(0.0)
    for sign, mask in ((-1, pair & same), (1, pair & ~same)):
        counted = jnp.maximum(mask.sum(), 1)  # of all cameras of the step, which are here
        total += masked_mean(jax.nn.softplus(sign * scores), mask, counted)
    return total


def compare(out: Any, batch: Batch) -> dict[str, Array]:
    """The terms of the loss but the person head's, of answers and truth [S, C, T, ...]."""
    seen = batch["labels"].max(axis=-2)
    frame = losses.label_loss(out.logits, seen, True, 0.0).mean()
    box = losses.label_loss(out.box_logits, batch["labels"], True, 0.0)
    future, repeat = future_loss(out.next_features, out.features)
    known = batch["known"].astype(jnp.float32)
    return {
        "label": frame + masked_mean(box, batch["box_valid"]),
        "event": score_loss(out.event_logits, batch["event"]).mean(),
        "anomaly": masked_mean(score_loss(out.anomaly_logits, batch["anomaly"]), known),
        "future": future / (of_step(jax.lax.stop_gradient(repeat)).mean() + 1e-6),
    }

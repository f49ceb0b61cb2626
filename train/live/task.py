"""Learning to watch many cameras: a stream of the batch is a scene, whose cameras are one batch
of a live model.

A scene runs from its first frame to its last through the carry that the model will have when it
runs. What is learned: who is in the picture and where, that somebody comes or goes, the next
frame's feature, and the anomaly of ``data.handover``, which no camera sees alone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...layers.streaming import Carry, Params
from ...zoo.encode.stems import PRETRAINED
from ...zoo.live import CrossStream
from ...zoo.ranges import Checked, Weight
from ...zoo.registry import Card
from .. import losses
from ..base import ModelTask
from ..micro import of_step
from ..tasks import prepared
from ..types import Batch, Evaluate, Loss
from .losses import compare, match_loss

Array = jax.Array
SEEN = 3  # frames in view before a camera counts as having shown its actor


@dataclasses.dataclass(frozen=True)
class LiveLoss(Checked):
    """Weights of the terms.

    Attributes:
      label: classes of the frame and of each box.
      person: the person head's two losses.
      event, anomaly: cross-entropy of the two scores.
      future: of the next frame's fused feature, against doing without a change.
      match: HRM's likeness of two cameras, which should tell whether they have shown the same
        actor (re-identification). Of any two cameras of the batch: an anomaly is one answer per
        camera, and that is little to learn to compare from. Taught with HRM on and off alike.
      cross: with HRM; False teaches every camera by itself.
    """

    label: Weight = 1.0
    person: Weight = 0.2
    event: Weight = 0.5
    anomaly: Weight = 2.0
    future: Weight = 0.1
    match: Weight = 0.5
    cross: bool = True


def over_scenes(
    model: Any,
    variables: Params,
    frames: Array,
    cross: Any,
    taps: tuple[str, ...] = (),
    **extra: Array,
) -> Any:
    """Answers [S, C, T, ...] of scenes [S, C, T, ...] from their first frames on.

    cross: bool or a scalar array of it, with HRM or without; taps and extra [S, C, T, ...]: to
    the model.
    """
    cameras = frames.shape[1]
    active = jnp.broadcast_to(jnp.asarray(cross), (cameras,))
    size = frames.shape[3:5] if frames.shape[-1] == 3 else model.config.image_size
    start = model.init_carry(cameras, size)
    apply = functools.partial(model.apply, variables, start, active=active, taps=taps)
    run = lambda f, e: apply(f, **e)[1]
    return jax.vmap(run)(frames, extra)


class Live(ModelTask):
    """The task; see ``loop.Task``. Batches: what ``handover.Scenes`` gives.

    Args:
      model: a ``zoo.live.LiveModel``; variables: its first weights.
      evaluate: host code, variables -> metrics.
    """

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Params,
        config: LiveLoss = LiveLoss(),
        *,
        evaluate: Evaluate | None = None,
    ):
        self.apart = ("stem",) if model.config.stem in PRETRAINED else ()
        super().__init__(model, card, variables, config, evaluate=evaluate)
        # data, as the model has it: with and without HRM it is one program
        self.constants = {"stem": self.frozen, "cross": jnp.asarray(config.cross)}

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        c, variables = self.config, {"params": {**params, **constants["stem"]}}
        # boxes are given, so that the classes of boxes are learned apart from finding them
        out = over_scenes(
            self.model, variables, prepared(batch["frames"], self.card), constants["cross"],
            ("token",), boxes=batch["boxes"], box_valid=batch["box_valid"],
        )  # fmt: skip
        flat = lambda a: a.reshape(-1, *a.shape[3:])
        heat, edges = losses.person_loss(
            flat(out.person["objectness"]), flat(out.person["edges"]), flat(batch["boxes"]),
            flat(batch["box_valid"]).astype(jnp.float32),
        )  # fmt: skip
        terms = compare(out, batch) | {"objectness": heat, "edges": edges}
        terms["match"] = self._match(
            params, *(a.reshape(-1, *a.shape[2:]) for a in (out.taps["token"], batch["labels"]))
        )
        total = c.person * (heat + edges)
        for name in ("label", "event", "anomaly", "future", "match"):
            total += getattr(c, name) * terms[name]
        return total, (memory, terms)

    def _match(self, params: Params, tokens: Array, labels: Array) -> Array:
        """tokens [N, T, D], labels [N, T, K, C] of the cameras of all scenes -> scalar."""
        config = self.model.config
        hrm = CrossStream(config.key_dim, config.cross_heads, jnp.dtype(config.dtype))
        half = max(config.period // 2, 1)  # at every look at the others, and once between
        at = jnp.arange(half, tokens.shape[1], half)
        score: Any = lambda x: hrm.apply({"params": params["hrm"]}, x, method="scores")
        # of all scenes of the step, whichever micro-batch they came in
        every: Any = lambda x: of_step(x).reshape(-1, *x.shape[1:])
        scores = jax.vmap(score)(every(tokens[:, at]).swapaxes(0, 1))
        shown = every(jnp.cumsum(labels.max(axis=(2, 3)), axis=1)[:, at] >= SEEN)
        looks = every(labels.max(axis=(1, 2)).argmax(axis=-1))
        return match_loss(scores, looks, shown.T[:, None])

"""Learning from labels: a sliding-window teacher, or a student for comparison."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ...layers.streaming import Carry, Fields, Params
from ...zoo.action import SlidingWindow, VideoMAE
from ...zoo.ranges import Checked, Range, Share, Weight, Whole, renamed
from ...zoo.registry import Card
from .. import losses
from ..base import ModelTask
from ..micro import step_key
from ..optim import layer_scale
from ..types import Batch, Evaluate, Loss
from .persons import person_terms
from .streams import Array, first_carry, prepared, reset


@renamed(sure="threshold")
@dataclasses.dataclass(frozen=True)
class SuperviseConfig(Checked):
    """Learning from labels.

    Attributes:
      windows: answers per chunk of a model that recomputes a window (a teacher), at random steps
        and through its carry; 0 takes the chunk itself as the clip and answers at every tubelet
        (``VideoMAE.every_tubelet``), which teaches much more per second.
      smoothing: of the labels.
      person: weight of the person head's losses, taught by the box teacher.
      threshold: score from which the box teacher's box is a person.
      remat: recompute activations in the backward pass: less memory, more time.
    """

    windows: Whole = 0
    smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    person: Weight = 0.0
    threshold: Share = 0.4
    remat: bool = False


class Supervise(ModelTask):
    """Labels of boxes teach a streaming model: a sliding-window teacher, or a student.

    Args:
      model: a streaming module with a head for boxes; ``variables`` are its first weights.
      evaluate: host code, variables -> metrics.
    """

    apart = ("stem",)

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Params,
        config: SuperviseConfig = SuperviseConfig(),
        *,
        evaluate: Evaluate | None = None,
        frame_shape: tuple[int, ...] | None = None,
    ):
        super().__init__(model, card, variables, config, evaluate=evaluate)
        self.frame_shape = frame_shape

    def init_memory(self, lanes: int) -> Carry:
        return first_carry(self.model, lanes, self.frame_shape)

    rate_scale = staticmethod(layer_scale)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        cfg = self.config
        steps = batch["valid"].shape[1]
        frames = prepared(batch["frames"], self.card)
        variables = {"params": {**params, **constants}}
        window = isinstance(self.model, SlidingWindow)
        if window and not cfg.windows:
            return self._clips(variables, memory, frames, batch)
        carry = reset(memory, batch["fresh"], self.init_memory(len(batch["fresh"])))
        at, late = jnp.arange(steps), 0
        boxes, box_valid = batch["boxes"], batch["box_valid"]
        extra: Fields = {} if window else {"taps": ("features",)}
        if window:
            late = self.model.config.lookahead
            if steps <= late:
                raise ValueError(f"chunks of {steps} frames, look-ahead {late}: raise loop.frames")
            count = min(cfg.windows, steps - late)
            chosen = jax.random.choice(step_key(key), steps - late, (count,), replace=False)
            at = jnp.sort(chosen)
            extra["at"] = at + late  # answers come that much later, for boxes of their own frames
            boxes, box_valid = (jnp.roll(a, late, axis=1) for a in (boxes, box_valid))

        def apply(variables: Params, carry: Carry, frames: Array) -> Any:
            return self.model.apply(
                variables, carry, frames, batch["valid"],
                boxes=boxes, box_valid=box_valid, **extra,
            )  # fmt: skip

        carry, out = (jax.checkpoint(apply) if cfg.remat else apply)(variables, carry, frames)
        metrics = {"label": self._compare(out.box_logits, batch, at, late)}
        total = metrics["label"]
        if cfg.person and not window:
            found = person_terms(self.model, variables, out.taps["features"], batch, cfg.threshold)
            metrics |= found
            total += cfg.person * (found["objectness"] + found["edges"])
        return total, (carry, metrics)

    def _compare(self, logits: Array, batch: Batch, at: Any, late: int = 0) -> Array:
        known = (batch["labelled"] & batch["box_valid"] & batch["valid"][..., None])[:, at]
        if late:  # the step of the answer exists too
            known &= batch["valid"][:, at + late][..., None]
        labels = batch["labels"][:, at]
        each = losses.label_loss(logits, labels, self.card.multi_label, self.config.smoothing)
        return losses.masked_mean(each, known)

    def _clips(self, variables: Params, memory: Carry, frames: Array, batch: Batch) -> Loss:
        tubelet = self.model.config.tubelet
        offline = VideoMAE(self.model.config)
        logits: Any = offline.apply(
            variables, frames, batch["boxes"], batch["box_valid"], method="every_tubelet"
        )
        loss = self._compare(logits, batch, slice(tubelet - 1, None, tubelet))
        return loss, (memory, {"label": loss})

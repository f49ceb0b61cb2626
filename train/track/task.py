"""Learning to track: a tracker is shown the first frame's mask, box or a point, then finds the
object by what it remembers. A clip runs through the carry that the tracker will have when it runs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ...layers.streaming import Carry, Params
from ...zoo.ranges import Checked, Weight
from ...zoo.registry import Card
from ..base import ModelTask
from ..tasks import prepared
from ..types import Batch, Evaluate, Loss
from .losses import TERMS, compare
from .prompts import first_prompt

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TrackConfig(Checked):
    """Weights of the terms, and how often the first frame is shown by mask, box or point.

    Attributes:
      pixels, dice: of the masks: cross-entropy per pixel, and overlap.
      quality: of the difference between the tracker's own estimate of IoU and the true one.
      presence: of the object score's cross-entropy.
      prompts: parts of the clips prompted by mask, box, point.
    """

    pixels: Weight = 2.0
    dice: Weight = 1.0
    quality: Weight = 0.2
    presence: Weight = 0.2
    prompts: tuple[Weight, Weight, Weight] = (0.6, 0.2, 0.2)

    def __post_init__(self):
        super().__post_init__()
        if not sum(self.prompts):
            raise ValueError(f"prompts {self.prompts}: parts of mask, box, point, not all 0")


class Track(ModelTask):
    """The task; see ``loop.Task``. Batches: ``frames`` [B, T, H, W, 3] uint8 and ``masks``
    [B, T, H, W] bool, in the first frame not empty.

    Args:
      model: the tracker that learns, with one object slot and a frozen ``trunk``.
      variables: its first weights.
      evaluate: host code, variables -> metrics.
    """

    apart = ("trunk",)

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Params,
        config: TrackConfig = TrackConfig(),
        *,
        evaluate: Evaluate | None = None,
    ):
        if model.config.objects != 1:
            raise ValueError("training takes a tracker with objects=1")
        super().__init__(model, card, variables, config, evaluate=evaluate)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        c = self.config
        prompts = first_prompt(key, batch["masks"], self.model.config.points, c.prompts)
        frames = prepared(batch["frames"], self.card)
        carry, variables = self.model.init_carry(len(frames)), {"params": {**params, **constants}}
        _, out = self.model.apply(variables, carry, frames, None, prompts)
        terms = compare(out, batch["masks"], ~prompts.masked[:, :, 0])
        total: Any = sum(getattr(c, name) * terms[name] for name in TERMS)
        return total, (memory, terms)

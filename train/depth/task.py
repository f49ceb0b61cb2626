"""Learning an inverse depth: its form whatever its scale and shift, its edges, and a scale of its
own that is the same in every picture."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from ...layers.streaming import Carry, Params
from ...zoo.ranges import Checked, Weight
from ..base import ModelTask
from ..depth_losses import gradient_loss, median_loss, normalised
from ..tasks import prepared
from ..types import Batch, Loss


@dataclasses.dataclass(frozen=True)
class DepthConfig(Checked):
    """Weights of the terms.

    Attributes:
      form: of the difference after median and mean deviation are taken out.
      edges: of the gradients of that difference, over four scales.
      scale: of the difference itself, in units of 1 / ``metres``.
      metres: a depth that counts as usual.
    """

    form: Weight = 1.0
    edges: Weight = 0.5
    scale: Weight = 0.3
    metres: Weight = 5.0


class LearnDepth(ModelTask):
    """The task; see ``loop.Task``. Batches: ``frames`` [B, 1, H, W, 3] uint8 and ``inverse``
    [B, 1, H, W], 1 / metres."""

    apart = ("trunk",)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        c = self.config
        frames, target = prepared(batch["frames"][:, 0], self.card), batch["inverse"][:, 0]
        # the network's own answer: what makes it steady has nothing to learn
        found = self.model.apply(
            {"params": {**params, **constants}}, frames, method=lambda m, x: m.frame.find(x).depth
        )
        # every other row and column: the maps are a quarter as fine, and medians are slow
        found, target = found[:, ::2, ::2], target[:, ::2, ::2]
        known = jnp.ones(target.shape, bool)
        form = median_loss(found, target, known).mean()
        edges = gradient_loss(normalised(found, known), normalised(target, known), known).mean()
        apart = jnp.abs(found - c.metres * jnp.minimum(target, 1.0)).mean()
        total = c.form * form + c.edges * edges + c.scale * apart
        return total, (memory, {"form": form, "edges": edges, "scale": apart})

"""The person head's part of a loss, taught by the box teacher; and a task of it alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ...layers.streaming import Carry, Params
from ...zoo.registry import Card
from .. import losses
from ..base import ModelTask
from ..types import Batch, Evaluate, Loss
from .streams import Array, prepared

HEAD = "person_head"


def person_terms(
    model: Any, variables: Params, features: Array, batch: Batch, sure: float
) -> dict[str, Array]:
    """The person head's losses on features [B, T, h, w, D], taught by the box teacher's scores.

    A head that reads the stem (``person_stem``) takes the batch's frames, which are its features.
    """
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    told = flat(features), flat(batch["frames"].astype(jnp.float32))
    persons = model.apply(variables, *told, method="find")
    scores = jnp.where(batch["valid"][..., None], batch["persons"], 0.0)
    # a frame that never came must not teach that nobody is there
    said = jnp.where(flat(batch["valid"])[:, None, None], persons.objectness, -1e4)
    objectness, edges = losses.person_loss(
        said, persons.edges, flat(batch["boxes"]), flat(scores), sure
    )
    return {"objectness": objectness, "edges": edges}


class FindPersons(ModelTask):
    """A person head that reads the stem learns from the box teacher; all else stays as it is.

    Args:
      model: a student with ``person_stem``; ``variables`` are its first weights.
      sure: score from which the box teacher's box is a person.
      dropout: share of the stem's channels that a frame is shown without, another one each time.
      evaluate: host code, variables -> metrics.
    """

    def __init__(
        self, model: Any, card: Card, variables: Params, sure: float = 0.4, *,
        dropout: float = 0.0, evaluate: Evaluate | None = None,
    ):  # fmt: skip
        self.dropout = dropout
        self.apart = tuple(name for name in variables["params"] if name != HEAD)
        super().__init__(model, card, variables, sure, evaluate=evaluate)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        variables = {"params": {**params, **constants}}
        frames = prepared(batch["frames"], self.card)
        if self.dropout:
            shape = (*frames.shape[:2], 1, 1, frames.shape[-1])
            kept = jax.random.bernoulli(key, 1 - self.dropout, shape)
            frames = jnp.where(kept, frames, 0.0)  # the head normalises: no scale to make up for
            batch = {**batch, "frames": frames}
        terms = person_terms(self.model, variables, frames, batch, self.config)
        return terms["objectness"] + terms["edges"], (memory, terms)

"""The person head's part of a loss, taught by the box teacher."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...layers.streaming import Params
from .. import losses
from ..types import Batch
from .streams import Array


def person_terms(
    model: Any, variables: Params, features: Array, batch: Batch, sure: float
) -> dict[str, Array]:
    """The person head's losses on features [B, T, h, w, D], taught by the box teacher's scores."""
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    persons = model.apply(variables, flat(features), method=lambda m, x: m.person_head(x))
    scores = jnp.where(batch["valid"][..., None], batch["persons"], 0.0)
    # a frame that never came must not teach that nobody is there
    said = jnp.where(flat(batch["valid"])[:, None, None], persons.objectness, -1e4)
    objectness, edges = losses.person_loss(
        said, persons.edges, flat(batch["boxes"]), flat(scores), sure
    )
    return {"objectness": objectness, "edges": edges}

"""Which implementations of ``layers/kernels`` a registered model's step takes, and why."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..layers.kernels.dispatch import recording
from ..layers.kernels.explain import Explanation
from .registry import Card, create_model
from .weights import shapes_like


def explain_model(card: Card, batch: int = 1, steps: int = 1) -> Explanation:
    """The choices for ``steps`` frames of ``batch`` streams; the model is traced, not computed.

    It is empty where the model calls no operation that has a choice, as plain convolutions do.
    Raises ValueError: the model has no step that takes frames (offline, sound, text, prompts or
    latents).
    """
    if not card.streaming or card.task in ("track", "speech", "text", "generate"):
        raise ValueError(f"{card.name} has no step that takes frames alone: no kernels per frame")
    model: Any = create_model(card.name, **card.overrides)
    carry = jax.eval_shape(lambda: model.init_carry(batch, card.input_size))
    frames = jax.ShapeDtypeStruct((batch, steps, *card.input_size, 3), np.float32)
    with recording() as choices:
        jax.eval_shape(model.apply, shapes_like(card.name, model), carry, frames)
    return Explanation(tuple(choices))

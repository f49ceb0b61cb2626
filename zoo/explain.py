"""Which implementations of ``layers/kernels`` a registered model's step takes, and why."""

from __future__ import annotations

from collections.abc import Mapping

from ..layers import kernels
from ..layers.kernels import Explanation
from .registry import Card, create_model
from .weights import shapes_like


def explain_model(
    card: Card,
    batch: int = 1,
    steps: int = 1,
    platform: str | None = None,
    devices: int | Mapping[str, int] = 1,
) -> Explanation:
    """:func:`.kernels.explain_model` of a registered name, at its own size of frames.

    It is empty where the model calls no operation that has a choice, as plain convolutions do.
    Raises ValueError: the model has no step that takes frames (offline, sound, text, prompts or
    latents).
    """
    if not card.streaming or card.task in ("track", "speech", "text", "generate"):
        raise ValueError(f"{card.name} has no step that takes frames alone: no kernels per frame")
    model = create_model(card.name, **card.overrides)
    return kernels.explain_model(
        model,
        batch,
        platform,
        devices,
        steps=steps,
        frame_shape=card.input_size,
        params=shapes_like(card.name, model),
    )

"""What the cards of the models of prompted frames and of the trackers have in common."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...layers.streaming import Fields
from ..registry import Card, register
from .tracker import Tracker

# of SAM 2 before 2.1, and of what came from it
BEFORE_2_1: Fields = dict(absent_memory=False, pointer_times=False)


def prompted(module: Any, card: Card) -> tuple:
    """Arguments of ``init``: a frame, a click and, where there are any, a mask."""
    config = module.config
    prompt = config.prompt
    frame = jnp.zeros((1, *config.image_size, 3))
    click = (jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 1), jnp.int32))
    if not prompt.masks:
        return (frame, *click)
    h, w = prompt.grid
    return (frame, *click, None, jnp.zeros((1, 1, 4 * h, 4 * w)))


def prompted_card(name: str, summary: str, paper: str, **fields: Any) -> Card:
    """A card for frames of 1024 x 1024."""
    fields = dict(input_size=(1024, 1024), multi_label=False, streaming=False) | fields
    return Card(name, summary=summary, paper=paper, **fields)


def register_tracker(
    name: str, config: Any, summary: str, paper: str, module: Any = Tracker, **fields: Any
) -> None:
    """Registers a tracker of prompted objects."""
    card = Card(
        name,
        summary=summary,
        paper=paper,
        input_size=config.image_size,
        multi_label=False,
        **fields,
    )
    register(name, module, config, card)

"""Connectors by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...registry import Card, register
from .model import Connector, ConnectorConfig


def some_features(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: the map of one picture."""
    del card
    c = module.config
    return (jnp.zeros((1, c.grid, c.grid, c.width)),)


register(
    "connector-lite0",
    Connector,
    ConnectorConfig(),
    Card(
        "connector-lite0",
        summary="from efficientnet-lite0's features to SmolLM2-135M's tokens; 0.24 M parameters",
        paper="after Liu et al., Visual Instruction Tuning (arXiv 2304.08485)",
        input_size=(1, 1),  # a map of features; its pictures are the encoder's
        value_range=(0.0, 1.0),
        streaming=False,
    ),
    inputs=some_features,
)

"""The types of training: batches, what a loss gives, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ..layers.streaming import Array, Carry, Params

Batch: TypeAlias = Mapping[str, Array]  # name -> [B, ...]; B streams, T frames
Loss: TypeAlias = tuple[Array, tuple[Carry, dict[str, Array]]]  # (loss, (memory, scalars by name))
Metrics: TypeAlias = dict[str, float]
Evaluate: TypeAlias = Callable[[Params], Metrics]  # host code: a model's variables -> metrics

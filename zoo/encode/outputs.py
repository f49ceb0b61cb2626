"""What every encoder answers."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import flax.struct
import jax

Array = jax.Array


@flax.struct.dataclass
class EncoderOutput:
    """Features of frames. B frames, h x w cells of D channels; a video encoder has an axis of time
    after B. Fields are None where the model has no such thing."""

    features: Array | None = None  # [B, h, w, D] one vector per patch or cell
    pooled: Array | None = None  # [B, D] one vector per frame (video encoders: per clip)
    prefix: Array | None = None  # [B, P, D] class and register tokens, in the model's order
    taps: dict[str, Any] | None = None  # intermediates asked for by name, stacked over depth

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

"""The small tracker that comes with the package, by name."""

from __future__ import annotations

from ..cards import register_tracker
from .model import PropagateConfig, Propagator

# Small enough to come with the package; the trunk stays as published and wants its own greys.
register_tracker(
    "tracker-lite0",
    PropagateConfig(),
    "tracks prompted objects by likeness: a small network on a frozen EfficientNet-Lite0",
    "after Cheng et al., STCN (arXiv 2106.05210); prompts and sizes are ours",
    Propagator,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)

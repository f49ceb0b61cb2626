"""VideoPrism by name."""

from __future__ import annotations

from ..families import register_published
from .model import VideoPrism, VideoPrismConfig

PAPER = "Zhao et al., VideoPrism (arXiv 2402.13217)"

# size -> (config, hub address)
SIZES = {
    "b18": (VideoPrismConfig(), "hf:google/videoprism-base-f16r288"),
    "l18": (
        VideoPrismConfig(dim=1024, depth=24, heads=16, frames=8),
        "hf:google/videoprism-large-f8r288",
    ),
}

for _size, (_config, _source) in SIZES.items():
    register_published(
        f"videoprism-{_size}",
        "public",
        VideoPrism,
        _config,
        _source,
        summary=f"{_config.dim} wide, {_config.depth} blocks in frames and"
        f" {_config.temporal_depth} over time; video encoder",
        paper=PAPER,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )

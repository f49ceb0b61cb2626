"""The video encoders by name."""

from __future__ import annotations

from typing import Any

from ..registry import Card, register
from .models_vit import IMAGENET
from .videoprism import VideoPrism, VideoPrismConfig
from .vjepa2 import VJEPA2, VJEPA2Config

VJEPA2_PAPER = "Assran et al., V-JEPA 2 (arXiv 2506.09985)"
VIDEOPRISM_PAPER = "Zhao et al., VideoPrism (arXiv 2402.13217)"

# size -> (config, tag, hub address)
VJEPA2_SIZES = {
    "l16": (VJEPA2Config(), "hf:facebook/vjepa2-vitl-fpc64-256"),
    "h16": (VJEPA2Config(dim=1280, depth=32), "hf:facebook/vjepa2-vith-fpc64-256"),
    "g16": (
        VJEPA2Config(dim=1408, depth=40, heads=22, mlp_ratio=48 / 11),
        "hf:facebook/vjepa2-vitg-fpc64-256",
    ),
}
VIDEOPRISM_SIZES = {
    "b18": (VideoPrismConfig(), "hf:google/videoprism-base-f16r288"),
    "l18": (
        VideoPrismConfig(dim=1024, depth=24, heads=16, frames=8),
        "hf:google/videoprism-large-f8r288",
    ),
}


def _register(name: str, tag: str, build: Any, config: Any, source: str, **card: Any) -> None:
    look: dict[str, Any] = dict(input_size=config.image_size, streaming=False, **card)
    register(name, build, config, Card(name, **look))
    full = f"{name}/{tag}"
    look |= dict(source=source, summary="published: " + look["summary"])
    register(full, build, config, Card(full, **look))


for _size, (_config, _source) in VJEPA2_SIZES.items():
    _register(
        f"vjepa2-{_size}",
        "fpc64",
        VJEPA2,
        _config,
        _source,
        summary=f"{_config.dim} wide, {_config.depth} blocks; self-supervised video encoder",
        paper=VJEPA2_PAPER,
        licence="MIT",
        **IMAGENET,
    )
for _size, (_config, _source) in VIDEOPRISM_SIZES.items():
    _register(
        f"videoprism-{_size}",
        "public",
        VideoPrism,
        _config,
        _source,
        summary=f"{_config.dim} wide, {_config.depth} blocks in frames and"
        f" {_config.temporal_depth} over time; video encoder",
        paper=VIDEOPRISM_PAPER,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )

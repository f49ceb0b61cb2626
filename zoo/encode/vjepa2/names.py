"""V-JEPA 2 by name."""

from __future__ import annotations

from ..families import IMAGENET, register_published
from .model import VJEPA2, VJEPA2Config

PAPER = "Assran et al., V-JEPA 2 (arXiv 2506.09985)"

# size -> (config, tag, hub address)
SIZES = {
    "l16": (VJEPA2Config(), "hf:facebook/vjepa2-vitl-fpc64-256"),
    "h16": (VJEPA2Config(dim=1280, depth=32), "hf:facebook/vjepa2-vith-fpc64-256"),
    "g16": (
        VJEPA2Config(dim=1408, depth=40, heads=22, mlp_ratio=48 / 11),
        "hf:facebook/vjepa2-vitg-fpc64-256",
    ),
}

for _size, (_config, _source) in SIZES.items():
    register_published(
        f"vjepa2-{_size}",
        "fpc64",
        VJEPA2,
        _config,
        _source,
        summary=f"{_config.dim} wide, {_config.depth} blocks; self-supervised video encoder",
        paper=PAPER,
        fit="crop",
        filter="bilinear",
        short_side=_config.image_size[0] * 256 // 224,
        licence="MIT",
        **IMAGENET,
    )

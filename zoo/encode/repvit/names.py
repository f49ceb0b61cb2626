"""RepViT by name."""

from __future__ import annotations

from ...registry import Card, register
from ..families import frame_input
from .model import RepViT, RepViTConfig

register(
    "repvit-m1",
    RepViT,
    RepViTConfig(),
    Card(
        "repvit-m1",
        summary="convolutional image encoder for phones, 4.7 M parameters; the trunk of EdgeTAM",
        paper="Wang et al., RepViT (arXiv 2307.09283)",
        multi_label=False,
        streaming=False,
    ),
    inputs=frame_input,
)

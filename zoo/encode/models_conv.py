"""The convolutional encoders by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..registry import Card, register
from . import convert_repvit as _convert_repvit  # registers the converter
from . import convert_transnetv2 as _convert_transnetv2
from .convert_convnext import SIZES
from .convnext import ConvNeXt, ConvNeXtConfig
from .repvit import RepViT, RepViTConfig
from .transnetv2 import TransNetV2, TransNetV2Config

del _convert_repvit, _convert_transnetv2

_PARAMETERS = {"t": "28 M", "s": "49 M", "b": "88 M"}
_FAMILIES = {
    "dinov3": ("distilled from DINOv3", "Simeoni et al., DINOv3 (arXiv 2508.10104)"),
    "eupe": ("EUPE's universal encoder", "EUPE (arXiv 2603.22387)"),
}


def _frame(module: Any, card: Card) -> tuple:
    return (jnp.zeros((1, *module.config.image_size, 3)),)


def _card(name: str, summary: str, paper: str) -> Card:
    return Card(name, summary=summary, paper=paper, multi_label=False, streaming=False)


for _family, (_about, _paper) in _FAMILIES.items():
    for _size, _shape in SIZES.items():
        _name = f"{_family}-convnext-{_size}"
        _summary = f"ConvNeXt image encoder, {_PARAMETERS[_size]} parameters, {_about}"
        register(
            _name, ConvNeXt, ConvNeXtConfig(**_shape), _card(_name, _summary, _paper), inputs=_frame
        )

register(
    "repvit-m1",
    RepViT,
    RepViTConfig(),
    _card(
        "repvit-m1",
        "convolutional image encoder for phones, 4.7 M parameters; the trunk of EdgeTAM",
        "Wang et al., RepViT (arXiv 2307.09283)",
    ),
    inputs=_frame,
)

register(
    "transnetv2",
    TransNetV2,
    TransNetV2Config(),
    Card(
        "transnetv2",
        summary="finds the cuts between shots, 7.6 M parameters; answers a stream 98 frames late",
        paper="Soucek and Lokoc, TransNet V2 (arXiv 2008.04838)",
        input_size=(27, 48),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        multi_label=False,
        streaming=False,
    ),
    inputs=lambda module, card: (jnp.zeros((1, 4, *module.config.image_size, 3)),),
)

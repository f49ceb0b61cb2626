"""RADIO by name: with the vectors of its class tokens, and with its heads to single teachers."""

from __future__ import annotations

from ...registry import Card, register
from ..families import MIDDLE, OPENAI, Family, frame_input, register_family, size
from ..vit import ImageViTConfig
from .model import AdaptedConfig, AdaptedEncoder

# Positions were trained as random crops of a table for 2048 pixels.
RADIO = dict(
    patch_bias=False,
    class_tokens=3,
    registers=7,
    class_position=False,
    table_grid=(128, 128),
    resize="crop",
    final_norm="none",
    pool_tokens=(0, 1, 2),
)

_radio = Family(
    "radio",
    "one encoder distilled from several teachers, a class token for each",
    "Ranzinger et al., AM-RADIO (arXiv 2312.06709)",
    OPENAI | MIDDLE,
    RADIO,
    {
        "b16": size(768, 12, 12),
        "l16": size(1024, 24, 16),
        "h16": size(1280, 32, 16),
    },
    {"h16/c4": "hf:nvidia/C-RADIOv4-H"},
    "NVIDIA Open Model License (the published weights)",
)
register_family(_radio)

_config = ImageViTConfig(**{**_radio.fields, **_radio.sizes["h16"]})
register(
    "radio-adapted-h16",
    AdaptedEncoder,
    AdaptedConfig(_config),
    Card(
        "radio-adapted-h16",
        summary="RADIO with its heads to single teachers: which there are, the checkpoint says",
        paper=_radio.paper,
        input_size=_config.image_size,
        streaming=False,
        **_radio.look,
    ),
    inputs=frame_input,
)

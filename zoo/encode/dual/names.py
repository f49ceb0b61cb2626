"""The models with an image tower and a text tower, by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, find, register
from .model import DualEncoder, DualEncoderConfig, TextTowerConfig

CLIP = dict(heads=8)
SIGLIP = dict(
    vocabulary=32_000,
    length=64,
    activation="gelu_tanh",
    eps=1e-6,
    causal=False,
    end_token=None,
    projection_bias=True,
)
LARGE = dict(dim=1152, depth=27, heads=16, mlp_ratio=4304 / 1152, projection=1152)

# image tower -> its text tower
TOWERS: dict[str, Fields] = {
    "clip-b32": CLIP,
    "clip-b16": CLIP,
    "clip-l14": dict(dim=768, heads=12, projection=768),
    "siglip-b16": SIGLIP | dict(dim=768, heads=12, projection=768),
    "siglip-l16": SIGLIP | dict(dim=1024, depth=24, heads=16, projection=1024),
    "siglip-so400m14": SIGLIP | LARGE,
    "siglip2-b16": SIGLIP | dict(dim=768, heads=12, projection=768, vocabulary=256_000),
    "siglip2-so400m16": SIGLIP | LARGE | dict(vocabulary=256_000),
}
TAGS = {"clip": "openai", "siglip": "webli", "siglip2": "webli"}


def _inputs(module: Any, card: Card) -> tuple:
    config = module.config
    tokens = jnp.zeros((1, config.text.length), jnp.int32)
    return jnp.zeros((1, *config.image_size, 3)), tokens


for _image, _text in TOWERS.items():
    _family, _size = _image.split("-")
    _entry = find(f"{_image}/{TAGS[_family]}")
    _name = f"{_family}-dual-{_size}"
    _config = DualEncoderConfig(_entry.config, TextTowerConfig(**_text), _family != "clip")
    _look: Fields = dict(
        summary=f"{_image} with its text tower: how well frames and texts belong together",
        paper=_entry.card.paper,
        input_size=_entry.card.input_size,
        mean=_entry.card.mean,
        std=_entry.card.std,
        fit=_entry.card.fit,
        short_side=_entry.card.short_side,
        filter=_entry.card.filter,
        multi_label=_family != "clip",
        streaming=False,
    )
    register(_name, DualEncoder, _config, Card(_name, **_look), inputs=_inputs)
    _tagged = f"{_name}/{TAGS[_family]}"
    _look |= dict(source=_entry.card.source, licence=_entry.card.licence)
    register(_tagged, DualEncoder, _config, Card(_tagged, **_look), inputs=_inputs)

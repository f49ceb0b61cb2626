"""Names of one body in its published sizes, and the pictures of the published pipelines."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from ...layers.streaming import Fields
from ..registry import Card, register
from .vit import ImageViT, ImageViTConfig

IMAGENET: Fields = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OPENAI: Fields = dict(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
HALF: Fields = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# the pictures of the published pipelines: their preprocessor_config.json
MIDDLE: Fields = dict(fit="crop", filter="bicubic")  # the whole shorter side
WIDER: Fields = MIDDLE | dict(short_side=256)


class Family(NamedTuple):
    """Names ``arch-size`` of one body. sizes: name -> config fields; tags: name -> hub address."""

    arch: str
    about: str
    paper: str
    look: Fields
    fields: Fields
    sizes: dict[str, Fields]
    tags: dict[str, str]
    licence: str = "Apache-2.0"


def size(dim: int, depth: int, heads: int, **more: Any) -> Fields:
    """The config fields of a size."""
    return dict(dim=dim, depth=depth, heads=heads, **more)


def frame_input(module: Any, card: Card) -> tuple:
    """The argument of ``init`` of an image encoder: one frame."""
    return (jnp.zeros((1, *module.config.image_size, 3)),)


def register_family(family: Family) -> None:
    """Registers every size, and every published checkpoint of it."""
    for name, shape in family.sizes.items():
        config = ImageViTConfig(**{**family.fields, **shape})
        full = f"{family.arch}-{name}"
        about = f"{config.dim} wide, {config.depth} blocks; {family.about}"
        shared: Fields = dict(
            paper=family.paper, input_size=config.image_size, streaming=False, **family.look
        )
        card = Card(full, summary=about, **shared)
        register(full, ImageViT, config, card, inputs=frame_input)
        for tag, source in family.tags.items():
            if tag.split("/")[0] != name:
                continue
            tagged = f"{family.arch}-{tag}"
            card = Card(
                tagged,
                summary=f"published: {about}",
                source=source,
                licence=family.licence,
                **shared,
            )
            register(tagged, ImageViT, config, card, inputs=frame_input)


def register_published(
    name: str, tag: str, build: Any, config: Any, source: str, **card: Any
) -> None:
    """An architecture and its published checkpoint, under ``tag``."""
    look: Fields = dict(input_size=config.image_size, streaming=False, **card)
    register(name, build, config, Card(name, **look))
    full = f"{name}/{tag}"
    look |= dict(source=source, summary="published: " + look["summary"])
    register(full, build, config, Card(full, **look))

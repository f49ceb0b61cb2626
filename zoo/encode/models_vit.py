"""The vision transformers by name: sizes as published, one body."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from ..registry import Card, register
from .teacher_heads import AdaptedConfig, AdaptedEncoder
from .vit import ImageViT, ImageViTConfig

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OPENAI = dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Family(NamedTuple):
    """Names ``arch-size`` of one body. sizes: name -> config fields; tags: name -> hub address."""

    arch: str
    about: str
    paper: str
    look: dict[str, Any]
    fields: dict[str, Any]
    sizes: dict[str, dict[str, Any]]
    tags: dict[str, str]
    licence: str = "Apache-2.0"


def size(dim: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    """The config fields of a size."""
    return dict(dim=dim, depth=depth, heads=heads, **more)


DINOV2_SIZES = {
    "s14": size(384, 12, 6),
    "b14": size(768, 12, 12),
    "l14": size(1024, 24, 16),
    "g14": size(1536, 40, 24, gated=True, activation="silu", mlp_ratio=4096 / 1536),
}
# Trained with crops of 518 pixels at the end, hence the table of 37 x 37.
DINOV2 = dict(patch=14, layer_scale=1e-5, table_grid=(37, 37))
DINOV3 = dict(
    positions="rope", class_position=False, biased="qv", layer_scale=1e-5, registers=4, eps=1e-5
)
CLIP = dict(activation="quick_gelu", eps=1e-5, patch_bias=False, pre_norm=True, final_norm="pooled")
SIGLIP = dict(class_tokens=0, class_position=False, pool="map", activation="gelu_tanh")
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

FAMILIES = [
    Family(
        "dinov2",
        "self-supervised image encoder",
        "Oquab et al., DINOv2 (arXiv 2304.07193)",
        IMAGENET,
        DINOV2,
        DINOV2_SIZES,
        {
            "s14/lvd142m": "hf:facebook/dinov2-small",
            "b14/lvd142m": "hf:facebook/dinov2-base",
            "l14/lvd142m": "hf:facebook/dinov2-large",
            "g14/lvd142m": "hf:facebook/dinov2-giant",
        },
    ),
    Family(
        "dinov2reg",
        "DINOv2 with four register tokens",
        "Darcet et al., Vision Transformers Need Registers (arXiv 2309.16588)",
        IMAGENET,
        DINOV2 | dict(registers=4, resize="bicubic-aa"),
        DINOV2_SIZES,
        {
            "s14/lvd142m": "hf:facebook/dinov2-with-registers-small",
            "b14/lvd142m": "hf:facebook/dinov2-with-registers-base",
            "l14/lvd142m": "hf:facebook/dinov2-with-registers-large",
            "g14/lvd142m": "hf:facebook/dinov2-with-registers-giant",
        },
    ),
    Family(
        "dinov3",
        "self-supervised image encoder with axial rotary positions",
        "Siméoni et al., DINOv3 (arXiv 2508.10104)",
        IMAGENET,
        DINOV3,
        {
            "s16": size(384, 12, 6),
            "s16plus": size(384, 12, 6, gated=True, activation="silu"),
            "b16": size(768, 12, 12),
            "l16": size(1024, 24, 16),
            "h16plus": size(1280, 32, 20, gated=True, activation="silu"),
        },
        {
            "s16/lvd1689m": "hf:facebook/dinov3-vits16-pretrain-lvd1689m",
            "s16plus/lvd1689m": "hf:facebook/dinov3-vits16plus-pretrain-lvd1689m",
            "b16/lvd1689m": "hf:facebook/dinov3-vitb16-pretrain-lvd1689m",
            "l16/lvd1689m": "hf:facebook/dinov3-vitl16-pretrain-lvd1689m",
            "h16plus/lvd1689m": "hf:facebook/dinov3-vith16plus-pretrain-lvd1689m",
        },
        "DINOv3 licence (the published weights)",
    ),
    Family(
        "eupe",
        "one small encoder distilled from several, on the body of DINOv3",
        "Efficient Universal Perception Encoder (arXiv 2603.22387)",
        IMAGENET,
        DINOV3,
        {
            "t16": size(192, 12, 3),
            "s16": size(384, 12, 6),
            "b16": size(768, 12, 12),
        },
        {
            "t16/lvd1689m": "hf:facebook/EUPE-ViT-T",
            "s16/lvd1689m": "hf:facebook/EUPE-ViT-S",
            "b16/lvd1689m": "hf:facebook/EUPE-ViT-B",
        },
        "FAIR Noncommercial (the published weights)",
    ),
    Family(
        "clip",
        "image tower of CLIP, its vector in the space of the texts",
        "Radford et al., CLIP (arXiv 2103.00020)",
        OPENAI,
        CLIP,
        {
            "b32": size(768, 12, 12, patch=32, projection=512),
            "b16": size(768, 12, 12, projection=512),
            "l14": size(1024, 24, 16, patch=14, projection=768),
        },
        {
            "b32/openai": "hf:openai/clip-vit-base-patch32",
            "b16/openai": "hf:openai/clip-vit-base-patch16",
            "l14/openai": "hf:openai/clip-vit-large-patch14",
        },
        "MIT",
    ),
    Family(
        "siglip",
        "image tower of SigLIP, its vector in the space of the texts",
        "Zhai et al., SigLIP (arXiv 2303.15343)",
        HALF,
        SIGLIP,
        {
            "b16": size(768, 12, 12),
            "l16": size(1024, 24, 16, image_size=(256, 256)),
            "so400m14": size(1152, 27, 16, patch=14, mlp_ratio=4304 / 1152),
        },
        {
            "b16/webli": "hf:google/siglip-base-patch16-224",
            "l16/webli": "hf:google/siglip-large-patch16-256",
            "so400m14/webli": "hf:google/siglip-so400m-patch14-224",
        },
    ),
    Family(
        "siglip2",
        "image tower of SigLIP 2 for frames of any shape (NaFlex)",
        "Tschannen et al., SigLIP 2 (arXiv 2502.14786)",
        HALF,
        SIGLIP | dict(resize="bilinear-aa", image_size=(256, 256)),
        {
            "b16": size(768, 12, 12),
            "so400m16": size(1152, 27, 16, mlp_ratio=4304 / 1152),
        },
        {
            "b16/webli": "hf:google/siglip2-base-patch16-naflex",
            "so400m16/webli": "hf:google/siglip2-so400m-patch16-naflex",
        },
    ),
    Family(
        "radio",
        "one encoder distilled from several teachers, a class token for each",
        "Ranzinger et al., AM-RADIO (arXiv 2312.06709)",
        OPENAI,
        RADIO,
        {
            "b16": size(768, 12, 12),
            "l16": size(1024, 24, 16),
            "h16": size(1280, 32, 16),
        },
        {"h16/c4": "hf:nvidia/C-RADIOv4-H"},
        "NVIDIA Open Model License (the published weights)",
    ),
]


def _frame(module: Any, card: Card) -> tuple:
    return (jnp.zeros((1, *module.config.image_size, 3)),)


def _register(family: Family) -> None:
    for name, shape in family.sizes.items():
        config = ImageViTConfig(**{**family.fields, **shape})
        full = f"{family.arch}-{name}"
        about = f"{config.dim} wide, {config.depth} blocks; {family.about}"
        shared: dict[str, Any] = dict(
            paper=family.paper, input_size=config.image_size, streaming=False, **family.look
        )
        card = Card(full, summary=about, **shared)
        register(full, ImageViT, config, card, inputs=_frame)
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
            register(tagged, ImageViT, config, card, inputs=_frame)


for _family in FAMILIES:
    _register(_family)

_radio = next(family for family in FAMILIES if family.arch == "radio")
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
    inputs=_frame,
)

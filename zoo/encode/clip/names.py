"""The image towers of CLIP by name."""

from __future__ import annotations

from ..families import MIDDLE, OPENAI, Family, register_family, size

CLIP = dict(activation="quick_gelu", eps=1e-5, patch_bias=False, pre_norm=True, final_norm="pooled")

register_family(
    Family(
        "clip",
        "image tower of CLIP, its vector in the space of the texts",
        "Radford et al., CLIP (arXiv 2103.00020)",
        OPENAI | MIDDLE,
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
    )
)

"""The image towers of SigLIP and SigLIP 2 by name."""

from __future__ import annotations

from ..families import HALF, Family, register_family, size

SIGLIP = dict(class_tokens=0, class_position=False, pool="map", activation="gelu_tanh")

for _family in (
    Family(
        "siglip",
        "image tower of SigLIP, its vector in the space of the texts",
        "Zhai et al., SigLIP (arXiv 2303.15343)",
        HALF | dict(filter="bicubic"),
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
        HALF | dict(filter="bilinear"),
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
):
    register_family(_family)

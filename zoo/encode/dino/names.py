"""DINOv2, DINOv3 and EUPE by name."""

from __future__ import annotations

from ..families import IMAGENET, WIDER, Family, register_family, size

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

for _family in (
    Family(
        "dinov2",
        "self-supervised image encoder",
        "Oquab et al., DINOv2 (arXiv 2304.07193)",
        IMAGENET | WIDER,
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
        IMAGENET | WIDER,
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
        IMAGENET | dict(filter="bilinear"),
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
        IMAGENET | dict(filter="bilinear"),
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
):
    register_family(_family)

"""Writes ``data/pi3.npz``: what a small Pi3 answers.

    git clone https://github.com/yyfz/Pi3
    python -m tests.parity.golden_pi3 Pi3

The classes are the repository's; their sizes alone are others.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from typing import Any

from .golden import fill, write
from .harness import images, mend_torchvision, to_torch

SIZE = (28, 42)
DIM, HEADS, WIDTH = 32, 2, 48
SPECIAL = {
    r".*(pos_embed|cls_token|register_tokens?)": (0.0, 0.5),
    r"point_head\.proj\.weight": (0.0, 0.03),  # the depth is its exponential
    r".*ls[12]\.gamma": (0.8, 0.2),
}


def build(checkout: str) -> Any:
    """The network, small."""
    sys.path.insert(0, checkout)
    mend_torchvision()
    import torch
    from torch import nn

    pi3: Any = importlib.import_module("pi3.models.pi3")
    vit: Any = importlib.import_module("pi3.models.dinov2.models.vision_transformer")

    model: Any = pi3.Pi3.__new__(pi3.Pi3)
    nn.Module.__init__(model)
    model.encoder = vit.DinoVisionTransformer(
        img_size=42, patch_size=14, embed_dim=DIM, depth=2, num_heads=HEADS, init_values=1.0,
        num_register_tokens=4, interpolate_antialias=True, interpolate_offset=0.0, block_chunks=0,
        block_fn=partial(vit.Block, attn_class=vit.MemEffAttention),
    )  # fmt: skip
    del model.encoder.mask_token
    model.patch_size, model.pos_type = 14, "rope100"
    model.rope, model.position_getter = pi3.RoPE2D(freq=100.0), pi3.PositionGetter()
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    model.decoder = nn.ModuleList(
        pi3.BlockRope(
            dim=DIM, num_heads=HEADS, mlp_ratio=4, qkv_bias=True, norm_layer=norm,
            init_values=0.01, qk_norm=True, attn_class=pi3.FlashAttentionRope, rope=model.rope,
        )
        for _ in range(4)
    )  # fmt: skip
    model.dec_embed_dim, model.patch_start_idx = DIM, 5
    model.register_token = nn.Parameter(torch.zeros(1, 1, 5, DIM))
    for name, out in (("point", WIDTH), ("conf", WIDTH), ("camera", 24)):
        decoder = pi3.TransformerDecoder(
            in_dim=2 * DIM, dec_embed_dim=WIDTH, dec_num_heads=3, out_dim=out, depth=2,
            rope=model.rope,
        )  # fmt: skip
        setattr(model, f"{name}_decoder", decoder)
    model.point_head = pi3.LinearPts3d(patch_size=14, dec_embed_dim=WIDTH, output_dim=3)
    model.conf_head = pi3.LinearPts3d(patch_size=14, dec_embed_dim=WIDTH, output_dim=1)
    model.camera_head = pi3.CameraHead(dim=24)
    model.register_buffer("image_mean", torch.zeros(1, 3, 1, 1))
    model.register_buffer("image_std", torch.ones(1, 3, 1, 1))
    return model.eval()


def main(checkout: str) -> None:
    import torch

    model = build(checkout)
    shapes = fill(model, SPECIAL, ("image_mean", "image_std"))
    with torch.no_grad():
        found = model(to_torch(images(*SIZE, batch=1, frames=3)))
    names = {"local_points": "local", "conf": "sure", "camera_poses": "poses", "points": "points"}
    write("pi3", shapes, {ours: found[told].numpy() for told, ours in names.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

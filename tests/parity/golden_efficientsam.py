"""Writes ``data/efficientsam.npz``: what the official EfficientSAM answers with random weights.

    git clone https://github.com/yformer/EfficientSAM
    python tests/parity/golden_efficientsam.py EfficientSAM

Their code is no package, so the parity row compares with these numbers: the tiny model's weights
(halves, so that the file stays small), its prompts, intermediates and masks. The frames are
``harness.images(96, 96)``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

SIZES = dict(image_size=96, num_attention_heads=2, decoder_attention_heads=2)
TARGET = Path(__file__).parent / "data" / "efficientsam.npz"


def build():
    """The official classes at a tiny size, lively, every weight a half-precision number."""
    import torch

    def official(module: str, name: str):
        return getattr(importlib.import_module(f"efficient_sam.{module}"), name)

    MaskDecoder = official("efficient_sam_decoder", "MaskDecoder")
    PromptEncoder = official("efficient_sam_decoder", "PromptEncoder")
    ImageEncoderViT = official("efficient_sam_encoder", "ImageEncoderViT")
    TwoWayTransformer = official("two_way_transformer", "TwoWayTransformer")
    EfficientSam = official("efficient_sam", "EfficientSam")
    torch.manual_seed(0)
    gelu = torch.nn.GELU
    encoder = ImageEncoderViT(96, 16, 3, 24, "layer_norm", 2, 2, 4.0, [16, 16], gelu)
    transformer = TwoWayTransformer(2, 16, 2, 40, gelu, False)
    decoder = MaskDecoder(
        transformer_dim=16,
        transformer=transformer,
        num_multimask_outputs=3,
        activation=gelu,
        normalization_type="layer_norm",
        normalize_before_activation=False,
        iou_head_depth=2,
        iou_head_hidden_dim=12,
        upscaling_layer_dims=[4, 2],
    )
    model = EfficientSam(encoder, PromptEncoder(16, (6, 6), (96, 96)), 6, decoder)
    model.pixel_mean.zero_()
    model.pixel_std.fill_(1.0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim > 1 and float(value.std()) > 0:
                value.mul_(0.5 if "gaussian" in name else 1.5)
            else:
                value.add_(0.3 * torch.randn(value.shape))
            value.copy_(value.half().float())
    return model.eval()


def main(checkout: str) -> None:
    sys.path[:0] = [checkout, str(Path(__file__).parents[1])]
    import torch
    from parity.harness import images, to_torch

    model = build()
    rng = np.random.default_rng(5)
    points = rng.uniform(1, 95, size=(2, 3, 4, 2)).astype(np.float32)
    labels = np.asarray([[[1, 0, 1, -1], [2, 3, 1, 0], [1, -1, -1, -1]]] * 2, np.int32)
    points[:, 1, 1] = points[:, 1, 0] + 1  # a box is its upper left and lower right corner
    points[labels < 0] = -1.0
    hidden = []
    for block in model.image_encoder.blocks:
        block.register_forward_hook(lambda _m, _i, out: hidden.append(out.numpy()))
    sparse = []
    model.prompt_encoder.register_forward_hook(lambda _m, _i, out: sparse.append(out.numpy()))
    with torch.no_grad():
        embedding = model.get_image_embeddings(to_torch(images(96, 96)))
        at, kind = torch.from_numpy(points), torch.from_numpy(labels)
        several = model.predict_masks(embedding, at, kind, True, 96, 96)
        single = model.predict_masks(embedding, at, kind, False, 96, 96)
    arrays = {f"weight {k}": v.numpy().astype(np.float16) for k, v in model.state_dict().items()}
    arrays |= dict(
        points=points,
        labels=labels,
        hidden=np.stack(hidden).reshape(2, 2, 6, 6, 24),
        embedding=embedding.movedim(1, -1).numpy(),
        sparse=sparse[0].reshape(2, 3, 6, 16),
        masks=several[0].numpy(),
        iou=several[1].numpy(),
        mask=single[0].numpy(),
        iou_single=single[1].numpy(),
    )
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, TARGET.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])

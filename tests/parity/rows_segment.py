"""Rows of the segment-anything image models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .golden_efficientsam import SIZES, TARGET
from .harness import Row, images, lively, run, to_torch

# Several prompts per image, several points per prompt, on and beside the object.
POINTS = np.random.default_rng(3).uniform(2, 62, size=(2, 3, 2, 2)).astype(np.float32)
LABELS = np.asarray([[[1, 0], [1, 1], [0, 1]], [[1, -1], [0, 1], [1, 1]]], np.int32)
BOXES = np.asarray(
    [[[4, 8, 30, 40], [10, 2, 60, 33], [0, 0, 64, 64]]] * 2, np.float32
) + np.asarray([0, 1], np.float32).reshape(2, 1, 1)  # fmt: skip

# name of the case -> (points, boxes, masks, several masks)
CASES = {
    "points": (True, False, False, True),
    "box": (False, True, False, False),
    "mask": (False, False, True, False),
    "points box mask": (True, True, True, True),
}


def _prompts(points: bool, boxes: bool, masks: bool, scale: float, mask_side: int) -> dict:
    """Ours; the mask is one per image, which is all that the references take."""
    noise = np.random.default_rng(4).normal(size=(2, 1, mask_side, mask_side)) * 3
    return dict(
        points=POINTS * scale if points else None,
        labels=LABELS if points else None,
        boxes=np.minimum(BOXES, 63) * scale if boxes else None,
        masks=noise.astype(np.float32) if masks else None,
    )


def _theirs(ours: dict) -> dict:
    import torch

    return {
        f"input_{name}": torch.from_numpy(value)
        for name, value in ours.items()
        if value is not None
    }


def _segment(module: Any, variables: Any, features: Any, prompts: dict, several: bool) -> Any:
    names = [n for n, v in prompts.items() if v is not None]

    def method(m, features, *values):
        given = dict(zip(names, values, strict=False))
        taps = ("sparse", "dense", "tokens")
        return m.segment(features, **given, multimask=several, taps=taps)

    values = [prompts[n] for n in names]
    return run(module, variables, features, *values, method=method)


def _cases(
    reference: Any, module: Any, variables: Any, features: Any, pixels: Any, side: int
) -> dict:
    """Every case: encoded prompts, masks, quality, presence."""
    pairs = {}
    for name, (points, boxes, masks, several) in CASES.items():
        ours = _prompts(points, boxes, masks, side / 64, module.config.prompt.grid[0] * 4)
        got = _segment(module, variables, features, ours, several)
        theirs = _theirs(ours)
        want = reference(pixels, multimask_output=several, **theirs)
        encoded = {f"input_{n}": theirs.get(f"input_{n}") for n in ours}
        if points or boxes:
            sparse, dense = reference.get_prompt_embeddings(**encoded)
            pairs[f"{name}: sparse"] = (got.taps["sparse"], sparse)
            if masks:
                dense = dense.movedim(1, -1)[:, None]
                pairs[f"{name}: dense"] = (got.taps["dense"], dense)
        pairs[f"{name}: masks"] = (got.masks, want.pred_masks)
        pairs[f"{name}: iou"] = (got.iou, want.iou_scores)
        score = getattr(want, "object_score_logits", None)
        if score is not None:
            pairs[f"{name}: object"] = (got.object_logits, score)
    return pairs


# --- SAM -------------------------------------------------------------------------------------


def build_sam() -> Any:
    import transformers

    config = transformers.SamConfig(
        vision_config=dict(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, output_channels=32,
            image_size=64, patch_size=8, window_size=3, global_attn_indexes=[1, 3],
            num_pos_feats=16, mlp_dim=96, initializer_range=0.1,
        ),
        prompt_encoder_config=dict(
            hidden_size=32, image_size=64, patch_size=8, mask_input_channels=8
        ),
        mask_decoder_config=dict(
            hidden_size=32, mlp_dim=48, num_attention_heads=4, iou_head_hidden_dim=24
        ),
        initializer_range=0.1,
    )  # fmt: skip
    model = transformers.SamModel(config)
    with_frequencies(model.shared_image_embedding.positional_embedding)
    return lively(model)


def with_frequencies(table: Any) -> None:
    """Frequencies near one, as published (a tiny SAM's config would draw them near 16 x 16)."""
    import torch

    torch.manual_seed(11)
    table.data.copy_(torch.randn(table.shape) / 3)


def compare_sam(reference: Any, module: Any, variables: Any) -> dict:
    frames = images(64, 64)
    pixels = to_torch(frames)
    found: list[Any] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: found.append(out))
        for layer in reference.vision_encoder.layers
    ]
    embedding = reference.get_image_embeddings(pixels)
    for hook in hooks:
        hook.remove()
    features = run(module, variables, frames, method="encode", taps=("hidden",))
    pairs = {f"block {i}": (features.taps["hidden"][i], x) for i, x in enumerate(found)}
    pairs["embedding"] = (features.embedding, embedding.movedim(1, -1))
    features = features.replace(taps=None)
    return pairs | _cases(reference, module, variables, features, pixels, 64)


# --- SAM 2 -----------------------------------------------------------------------------------


def build_sam2() -> Any:
    import transformers

    trunk = dict(
        model_type="sam2_hiera_det_model", hidden_size=8, embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8], blocks_per_stage=[1, 2, 3, 2],
        window_size_per_stage=[4, 2, 6, 3], global_attention_blocks=[4],
        window_positional_embedding_background_size=[3, 3], image_size=[128, 128],
        initializer_range=0.1,
    )  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=dict(
            backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]], fpn_hidden_size=32,
        ),
        prompt_encoder_config=dict(
            hidden_size=32, image_size=128, patch_size=16, mask_input_channels=8
        ),
        mask_decoder_config=dict(
            hidden_size=32, mlp_dim=48, num_attention_heads=4, iou_head_hidden_dim=24
        ),
        initializer_range=0.1,
    )  # fmt: skip
    model = lively(transformers.Sam2Model(config))
    table = model.prompt_encoder.shared_embedding.positional_embedding
    with_frequencies(table)
    model.shared_image_embedding.positional_embedding.copy_(table)
    return model


def compare_sam2(reference: Any, module: Any, variables: Any) -> dict:
    frames = images(128, 128)
    pixels = to_torch(frames)
    vision = reference.vision_encoder(pixels)
    stages = reference.vision_encoder.backbone(pixels).intermediate_hidden_states
    features = run(module, variables, frames, method="encode", taps=("stages",))
    pairs = {f"stage {i}": (features.taps["stages"][i], x) for i, x in enumerate(stages)}
    plain = run(module, variables, frames, method="encode", memory=True)
    pairs["pyramid"] = (plain.embedding, vision.fpn_hidden_states[2].movedim(1, -1))
    high, middle, embedding = reference.get_image_embeddings(pixels)
    pairs["skip 4"] = (features.skips[0], high.movedim(1, -1))
    pairs["skip 8"] = (features.skips[1], middle.movedim(1, -1))
    pairs["embedding"] = (features.embedding, embedding.movedim(1, -1))
    features = features.replace(taps=None)
    return pairs | _cases(reference, module, variables, features, pixels, 128)


# --- EfficientSAM ----------------------------------------------------------------------------


def load_golden() -> dict[str, np.ndarray]:
    with np.load(TARGET) as file:
        return dict(file)


def save_golden(reference: dict[str, np.ndarray], folder: Path) -> None:
    from safetensors.numpy import save_file

    weights = {
        key.removeprefix("weight "): value.astype(np.float32)
        for key, value in reference.items()
        if key.startswith("weight ")
    }
    save_file(weights, folder / "efficient_sam_vitt.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES))


def compare_efficientsam(reference: Any, module: Any, variables: Any) -> dict:
    frames = images(96, 96)
    prompts = reference["points"], reference["labels"]
    taps = ("hidden", "embedding", "sparse")
    several = run(module, variables, frames, *prompts, taps=taps)
    single = run(module, variables, frames, *prompts, multimask=False)
    hidden = several.taps["hidden"]
    return {
        **{f"block {i}": (hidden[i], reference["hidden"][i]) for i in range(len(hidden))},
        "embedding": (several.taps["embedding"], reference["embedding"]),
        "sparse": (several.taps["sparse"], reference["sparse"]),
        "masks": (several.masks, reference["masks"]),
        "iou": (several.iou, reference["iou"]),
        "one mask": (single.masks, reference["mask"]),
        "one iou": (single.iou, reference["iou_single"]),
    }


ROWS: list[Row] = [
    # 1.8e-4, of the mask prompt, where torch has no AVX-512
    Row("sam2-t", "transformers Sam2Model", build_sam2, compare_sam2, tolerance=3e-4),
    Row("sam-b16", "transformers SamModel", build_sam, compare_sam),
    Row(
        "efficientsam-ti16",
        "official EfficientSam (stored numbers)",
        load_golden,
        compare_efficientsam,
        save=save_golden,
    ),
]

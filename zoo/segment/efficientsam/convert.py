"""Converter table for EfficientSAM (github.com/yformer/EfficientSAM, Apache-2.0).

The weights are published as pickles, which are refused here: read the state dict under ``model``
once with torch's weights-only loader and save it as safetensors. The file tells every size but
the frame's and the number of heads, which are those of the published models unless a config.json
beside it says otherwise (``image_size``, ``num_attention_heads``, ``decoder_attention_heads``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ..checkpoint import depth_of, need
from ..rules import Layout, conv, decoder_rules, dense, norm, prompt_rules
from ..sizes import EFFICIENTSAM_SIZES

LAYOUT = Layout(
    norm="norm",
    norm_last="norm_final_attn",
    mlp=("mlp.layers.0.0", "mlp.fc"),
    upscale=(
        "final_output_upscaling_layers.0.0",
        "final_output_upscaling_layers.0.1",
        "final_output_upscaling_layers.1.0",
    ),
    head="fc",
    prompt=("pe_layer.positional_encoding_gaussian_matrix", "invalid_points.weight"),
    points="",
)


def square_positions(x: np.ndarray) -> np.ndarray:
    """[1, 1 + n * n, D], the first for a class token that is not used -> [n, n, D]."""
    side = round((x.shape[1] - 1) ** 0.5)
    if x.shape[1] != side * side + 1:
        raise ValueError(f"{x.shape[1]} positions are not one and a square")
    return x[0, 1:].reshape(side, side, -1)


def after_zeros(x: np.ndarray) -> np.ndarray:
    """[1, D] -> [2, D] after a row of zeros: points beside the object have no vector here."""
    return np.concatenate([np.zeros_like(x), x])


def rules(depth: int, iou_depth: int, masks: int) -> list[Rule]:
    """The whole table."""
    layer, block = r"image_encoder\.blocks\.(?P<layer>\d+)\.", "image_encoder/trunk/blocks/layer0/"
    lines = [
        *conv(r"image_encoder\.patch_embed\.proj", "image_encoder/trunk/patch_embed"),
        Rule(r"image_encoder\.pos_embed", "image_encoder/trunk/positions", square_positions),
    ]
    for name in ("norm1", "norm2"):
        lines += norm(layer + name, block + name, stack=depth)
    names = {"attn.qkv": "attn/qkv", "attn.proj": "attn/out", "mlp.fc1": "mlp/up",
             "mlp.fc2": "mlp/down"}  # fmt: skip
    for theirs, ours in names.items():
        lines += dense(layer + theirs.replace(".", r"\."), block + ours, stack=depth)
    for i in (1, 2):
        lines += conv(rf"image_encoder\.neck\.{2 * i - 2}", f"image_encoder/neck/conv{i}", False)
        lines += norm(rf"image_encoder\.neck\.{2 * i - 1}", f"image_encoder/neck/norm{i}")
    prompt, labels = r"prompt_encoder\.", "prompt_encoder/labels"
    lines += [
        *prompt_rules(LAYOUT, masks=False),
        Rule(prompt + r"point_embeddings\.weight", labels, after_zeros, part=(0, 3), axis=0),
        Rule(prompt + r"bbox_top_left_embeddings\.weight", labels, part=(1, 3), axis=0),
        Rule(prompt + r"bbox_bottom_right_embeddings\.weight", labels, part=(2, 3), axis=0),
    ]
    return lines + decoder_rules(
        LAYOUT, masks=masks, iou_depth=iou_depth, object_score=False, skips=False
    )


def _plan(tensors: Mapping[str, np.ndarray], config: Config) -> Plan:
    config = config or {}
    dim, _, patch, _ = need(tensors, "image_encoder.patch_embed.proj.weight").shape
    depth = depth_of(tensors, "image_encoder.blocks.")
    sizes = {(s.dim, s.depth): (name, s.heads) for name, s in EFFICIENTSAM_SIZES.items()}
    name, published = sizes.get((dim, depth), ("ti16", 0))
    heads = config.get("num_attention_heads") or published
    if not heads or dim % heads:
        raise ConvertError(
            f"an EfficientSAM of width {dim} and {depth} blocks is no published size: is the file"
            " complete? If it is, put a config.json with num_attention_heads beside the file"
        )
    side = config.get("image_size", 1024)
    grid = square_positions(need(tensors, "image_encoder.pos_embed")).shape[0]
    tokens = need(tensors, "mask_decoder.mask_tokens.weight")
    decoder = "mask_decoder.transformer."
    inner = need(tensors, decoder + "final_attn_token_to_image.q_proj.weight").shape[0]
    iou = "mask_decoder.iou_prediction_head.layers."
    overrides = {
        "trunk": {
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": need(tensors, "image_encoder.blocks.0.mlp.fc1.weight").shape[0] / dim,
            "patch": patch,
            "image_size": (side, side),
            "position_grid": (grid, grid),
        },
        "decoder": {
            "dim": tokens.shape[1],
            "heads": config.get("decoder_attention_heads", 8),
            "depth": depth_of(tensors, decoder + "layers."),
            "hidden": need(tensors, decoder + "layers.0.mlp.fc.weight").shape[1],
            "downsample": tokens.shape[1] // inner,
            "multimasks": tokens.shape[0] - 1,
            "iou_depth": 1 + depth_of(tensors, iou),
            "iou_hidden": need(tensors, iou + "0.0.weight").shape[0],
        },
    }
    table = rules(depth, overrides["decoder"]["iou_depth"], tokens.shape[0])
    return Plan(f"efficientsam-{name}", table, overrides)


def _is_efficientsam(keys: frozenset[str], config: Config) -> bool:
    return {
        "image_encoder.neck.0.weight",
        "prompt_encoder.bbox_top_left_embeddings.weight",
    } <= keys


register_converter(
    Converter(
        "efficientsam",
        _is_efficientsam,
        _plan,
        "EfficientSAM, sizes Ti and S: the state dict of its repository as safetensors",
    )
)

"""Converter table for EfficientTAM (github.com/yformer/EfficientTAM, Apache-2.0).

The weights are published as pickles, which are refused here: read the state dict under ``model``
once with torch's weights-only loader and save it as safetensors. What the weights do not tell is
that of the published models unless a config.json beside the file says otherwise: ``image_size``,
``num_attention_heads`` of the trunk, ``window_size``, ``global_blocks``, ``memory_heads`` and
``pooled_memory`` (whether memories are read through 2 x 2 pooled keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ..checkpoint import depth_of, need
from ..efficientsam.convert import square_positions
from ..rules import META, conv, decoder_rules, dense, flat, head, norm, prompt_rules, weighted
from ..sam2video.convert import dense_1x1, memory_attention_rules, table
from ..sizes import EFFICIENTTAM_SIZES
from ..window_vit import WindowVitConfig

Tensors = Mapping[str, np.ndarray]

TRUNK = "image_encoder.trunk."


def fold_scales(tensors: Tensors) -> dict[str, np.ndarray]:
    """Layer scales go into the layer before them: gamma (W x + b) = (gamma W) x + gamma b."""
    left = dict(tensors)
    for key in list(left):
        for scale, layer in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.layers.1")):
            if key.startswith(TRUNK) and key.endswith(scale):
                gamma = np.asarray(left.pop(key), np.float32)
                name = key.removesuffix(scale) + layer
                left[name + ".weight"] = left[name + ".weight"] * gamma[:, None]
                left[name + ".bias"] = left[name + ".bias"] * gamma
    return left


def trunk_rules(depth: int, period: int) -> list[Rule]:
    """The plain ViT and its neck."""
    stem, target = TRUNK.replace(".", r"\."), "image_encoder/"
    layer, block = stem + r"blocks\.(?P<layer>\d+)\.", target + "trunk/blocks/layer{slot}/"
    stack = dict(stack=depth // period, period=period)
    rules = [
        *conv(stem + r"patch_embed\.proj", target + "trunk/patch_embed"),
        Rule(stem + "pos_embed", target + "trunk/positions", square_positions),
    ]
    for name in ("norm1", "norm2"):
        rules += norm(layer + name, block + name, **stack)
    names = {"attn.qkv": "attn/qkv", "attn.proj": "attn/out", "mlp.layers.0": "mlp/up",
             "mlp.layers.1": "mlp/down"}  # fmt: skip
    for theirs, ours in names.items():
        rules += dense(layer + theirs.replace(".", r"\."), block + ours, **stack)
    neck = r"image_encoder\.neck\.convs\.0\."
    for i, size in ((1, "1x1"), (2, "3x3")):
        rules += conv(f"{neck}conv_{size}", f"{target}neck/conv{i}", bias=False)
        rules += norm(f"{neck}norm_{i - 1}", f"{target}neck/norm{i}")
    return rules


def memory_encoder_rules(halvings: int) -> list[Rule]:
    """The memory encoder, Meta's layout."""
    source = r"memory_encoder\."
    block, ours = source + r"fuser\.layers\.(?P<n>\d+)\.", "write/block{n}/"
    mask = source + r"mask_downsampler\.encoder\."
    rules = [
        *weighted(f"{mask}{3 * halvings}", "write/mask_out", dense_1x1),
        *weighted(source + "pix_feat_proj", "write/features", dense_1x1),
        *weighted(source + "out_proj", "write/project", dense_1x1),
        *weighted(block + "dwconv", ours + "spatial", conv2d),
        *norm(block + "norm", ours + "norm"),
        *dense(block + "pwconv1", ours + "mlp/up"),
        *dense(block + "pwconv2", ours + "mlp/down"),
        Rule(block + "gamma", ours + "gain"),
    ]
    for i in range(halvings):
        rules += conv(f"{mask}{3 * i}", f"write/down{i}")
        rules += norm(f"{mask}{3 * i + 1}", f"write/down_norm{i}")
    return rules


def _trunk(tensors: Tensors, config: Mapping[str, Any]) -> Fields:
    dim, _, patch, _ = need(tensors, TRUNK + "patch_embed.proj.weight").shape
    depth = depth_of(tensors, TRUNK + "blocks.")
    sizes = {(size.dim, size.depth): size.heads for size in EFFICIENTTAM_SIZES.values()}
    heads = config.get("num_attention_heads") or sizes.get((dim, depth))
    if not heads or dim % heads:
        raise ConvertError(
            f"an EfficientTAM of width {dim} and {depth} blocks is no published size: is the file"
            " complete? If it is, put a config.json with num_attention_heads beside the file"
        )
    grid = square_positions(need(tensors, TRUNK + "pos_embed")).shape[0]
    side = config.get("image_size", 1024)
    return {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": need(tensors, TRUNK + "blocks.0.mlp.layers.0.weight").shape[0] / dim,
        "patch": patch,
        "image_size": (side, side),
        "window": config.get("window_size", 14),
        "global_blocks": tuple(config.get("global_blocks", (2, 5, 8, 11))),
        "relative": False,
        "position_grid": (grid, grid),
    }


def _plan(tensors: Tensors, config: Config) -> Plan:
    given = dict(config or {})
    trunk = _trunk(tensors, given)
    decoder, iou = "sam_mask_decoder.", "sam_mask_decoder.iou_prediction_head.layers."
    tokens = need(tensors, decoder + "mask_tokens.weight")
    inner = need(tensors, decoder + "transformer.final_attn_token_to_image.q_proj.weight")
    skips = decoder + "conv_s0.weight" in tensors
    times = need(tensors, "maskmem_tpos_enc")
    layers = "memory_attention.layers."
    q = need(tensors, layers + "0.self_attn.q_proj.weight")
    fields: Fields = {
        "image_size": trunk["image_size"],
        "trunk": trunk,
        "decoder": {
            "dim": tokens.shape[1],
            "heads": 8,
            "depth": depth_of(tensors, decoder + "transformer.layers."),
            "hidden": need(tensors, decoder + "transformer.layers.0.mlp.layers.0.weight").shape[0],
            "downsample": tokens.shape[1] // inner.shape[0],
            "multimasks": tokens.shape[0] - 1,
            "iou_depth": depth_of(tensors, iou),
            "iou_hidden": need(tensors, iou + "0.weight").shape[0],
            "skips": skips,
        },
        "mask_channels": need(tensors, "sam_prompt_encoder.mask_downscaling.3.weight").shape[0],
        "memories": times.shape[0],
        "memory_dim": times.shape[-1],
        "depth": depth_of(tensors, layers),
        "heads": given.get("memory_heads", 1),
        "inner": 0 if q.shape[0] == q.shape[1] else q.shape[0],
        "hidden": need(tensors, layers + "0.linear1.weight").shape[0],
        "pool": given.get("pooled_memory", True),
        "memory_depth": depth_of(tensors, "memory_encoder.fuser.layers."),
        "memory_hidden": need(tensors, "memory_encoder.fuser.layers.0.pwconv1.weight").shape[0],
        "absent_memory": "no_obj_embed_spatial" in tensors,
        "pointer_times": "obj_ptr_tpos_proj.weight" in tensors,
    }
    fields.update({k: given[k] for k in ("max_pointers",) if k in given})
    period = len(WindowVitConfig(**trunk).windows())
    rules = [
        *trunk_rules(trunk["depth"], period),
        *prompt_rules(META, r"sam_prompt_encoder\."),
        *decoder_rules(
            META,
            r"sam_mask_decoder\.",
            masks=tokens.shape[0],
            iou_depth=fields["decoder"]["iou_depth"],
            skips=skips,
        ),
        *memory_attention_rules(
            fields["depth"], fields["heads"], names="norm", out="out_proj", last="norm"
        ),
        *memory_encoder_rules(4),
        *head("obj_ptr_proj", "pointer", 3, "layers"),
        *conv("mask_downsample", "mask_pointer"),
        Rule("maskmem_tpos_enc", "times", table),
        Rule("no_obj_ptr", "no_pointer", flat),
        Rule("no_mem_embed", "no_memory", flat),
    ]
    if fields["absent_memory"]:
        rules.append(Rule("no_obj_embed_spatial", "absent", flat))
    if fields["pointer_times"]:
        rules += dense("obj_ptr_tpos_proj", "pointer_time")
    names = {size.dim: name for name, size in EFFICIENTTAM_SIZES.items()}
    return Plan(
        f"efficienttam-{names.get(trunk['dim'], 's16')}",
        rules,
        fields,
        ignore=("no_mem_pos_enc",),  # only for a first frame that reads memory, which none does
        prepare=fold_scales,
    )


def _is_efficienttam(keys: frozenset[str], config: Config) -> bool:
    return {
        TRUNK + "blocks.0.attn.qkv.weight",
        "image_encoder.neck.convs.0.conv_3x3.weight",
        "memory_attention.layers.0.self_attn.q_proj.weight",
    } <= keys


register_converter(
    Converter(
        "efficienttam",
        _is_efficienttam,
        _plan,
        "EfficientTAM, sizes Ti and S: the state dict of its repository as safetensors",
    )
)

"""Depth Pro as transformers saves it and the hub holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ...encode.dino.convert import plan_dinov2
from ...encode.vit import ImageViTConfig
from ...registry import model_config
from ...rules import dense_rules, need
from ..rules import conv_rules, depth_plan, encoder_of, enlarging, pointwise

Tensors = Mapping[str, np.ndarray]
DEFAULTS = {
    "fusion_hidden_size": 256, "patch_size": 384, "intermediate_hook_ids": [11, 5],
    "intermediate_feature_dims": [256, 256], "scaled_images_ratios": [0.25, 0.5, 1],
    "scaled_images_overlap_ratios": [0.0, 0.5, 0.25],
    "scaled_images_feature_dims": [1024, 1024, 512], "merge_padding_value": 3,
    "use_batch_norm_in_fusion_residual": False, "num_fov_head_layers": 2,
}  # fmt: skip
NECK = r"depth_pro\.neck\."
ENCODERS = {
    "pieces": "depth_pro.encoder.patch_encoder.model.",
    "whole": "depth_pro.encoder.image_encoder.model.",
    "view/encoder": "fov_model.fov_encoder.model.",
}


def _up(source: str, target: str, bias: bool = False) -> list[Rule]:
    return conv_rules(source, target, enlarging, bias=bias)


def _neck(scaled: int, between: int) -> list[Rule]:
    up = NECK + r"feature_upsample\."
    rules = _up(up + r"image_block\.layers\.0", "whole_up", bias=True)
    for name, ours, count in (("scaled_images", "scaled_up", scaled),
                              ("intermediate", "between_up", between)):  # fmt: skip
        for i in range(count):
            layers, rise = rf"{up}{name}\.{i}\.layers\.", f"{ours}_{i}"
            rules += conv_rules(layers + "0", rise + "/into", pointwise, bias=False)
            for k in range(1 if name == "scaled_images" else 2 + i):
                rules += _up(layers + str(k + 1), f"{rise}/ups_{k}")
    rules += conv_rules(NECK + "fuse_image_with_low_res", "merge", pointwise)
    source = NECK + r"feature_projection\.projections\."
    return rules + [
        Rule(rf"{source}{i}\.weight", f"narrow_{i}/kernel", conv2d, optional=True)
        for i in range(scaled + between)  # the last one may be the identity
    ]


def _fusion(count: int) -> list[Rule]:
    rules = []
    for i in range(count):
        last = i == count - 1
        layer = r"fusion_stage\." + ("final" if last else rf"intermediate\.{i}") + r"\."
        for unit in (1, 2) if i else (2,):
            for conv in (1, 2):
                source = layer + rf"residual_layer{unit}\.convolution{conv}"
                rules += conv_rules(source, f"fuse_{i}/unit{unit}/conv{conv}")
        rules += [] if last else _up(layer + "deconv", f"fuse_{i}/up")
        rules += conv_rules(layer + "projection", f"fuse_{i}/out", pointwise)
    return rules


def _heads(layers: int, fov: bool) -> list[Rule]:
    rules = conv_rules(r"head\.layers\.0", "conv1") + _up(r"head\.layers\.1", "grow", bias=True)
    rules += conv_rules(r"head\.layers\.2", "conv2")
    rules += conv_rules(r"head\.layers\.4", "conv3", pointwise)
    if fov:
        rules += dense_rules(r"fov_model\.fov_encoder\.neck", "view/neck")
        rules += conv_rules(r"fov_model\.conv", "view/narrow")
        for i in range(layers):
            rules += conv_rules(rf"fov_model\.head\.layers\.{2 * i}", f"view/layers_{i}")
        rules += conv_rules(rf"fov_model\.head\.layers\.{2 * layers}", "view/last")
    return rules


def _encoders(
    tensors: Tensors, config: Mapping[str, Any], fov: bool
) -> tuple[ImageViTConfig, list[Rule], list[str]]:
    """What all encoders are, their rules, and keys to leave out."""
    found: dict[str, ImageViTConfig] = {}
    rules, ignore = [], []
    named = dict(zip(ENCODERS, ("patch", "image", "fov"), strict=True))
    for ours, prefix in list(ENCODERS.items())[: 3 if fov else 2]:
        shown = {**(config.get(f"{named[ours]}_model_config") or {}), "model_type": "dinov2"}
        mine = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        plan = plan_dinov2(mine, shown)
        found[ours] = encoder_of(model_config(plan.model, **plan.overrides))
        rules += [dataclasses.replace(r, target=f"{ours}/{r.target}") for r in plan.rules]
        ignore += plan.ignore
    if len(set(found.values())) != 1:
        raise ConvertError("Depth Pro: its encoders differ in shape, which is not known")
    return found["pieces"], rules, ignore


def _plan(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "Depth Pro", DEFAULTS)
    if shown["use_batch_norm_in_fusion_residual"]:
        raise ConvertError("Depth Pro: batch norms in the fusion are not known")
    need(tensors, "head.layers.0.weight", "Depth Pro")
    fov = "fov_model.conv.weight" in tensors
    encoder, rules, ignore = _encoders(tensors, config or {}, fov)
    ratios = tuple(float(r) for r in shown["scaled_images_ratios"])
    fields = {
        "encoder": encoder,
        "size": round(shown["patch_size"] / min(ratios)),
        "ratios": ratios,
        "overlaps": tuple(float(r) for r in shown["scaled_images_overlap_ratios"]),
        "scaled": tuple(shown["scaled_images_feature_dims"]),
        "hooks": tuple(shown["intermediate_hook_ids"]),
        "between": tuple(shown["intermediate_feature_dims"]),
        "fused": shown["fusion_hidden_size"],
        "padding": shown["merge_padding_value"],
        "fov": fov,
        "fov_layers": shown["num_fov_head_layers"],
    }
    rules += _neck(len(ratios), len(fields["between"]))
    rules += _fusion(len(ratios) + len(fields["between"])) + _heads(fields["fov_layers"], fov)
    unused = r"fusion_stage\.intermediate\.0\.residual_layer1\..*"  # the coarsest merges nothing
    return depth_plan(("depthpro-*",), fields, rules, (*ignore, unused))


def _detect(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "depth_pro") != "depth_pro":
        return False
    return {"depth_pro.neck.fuse_image_with_low_res.weight", "head.layers.0.weight"} <= keys


register_converter(
    Converter(
        "depth-pro-transformers",
        _detect,
        _plan,
        "Depth Pro as transformers saves it, with or without its field of view",
    )
)

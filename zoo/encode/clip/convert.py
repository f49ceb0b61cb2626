"""Converter table of CLIP's image tower, and what SigLIP's tower has of it.

Of a checkpoint with both towers the text tower and the similarity's scale are left out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Fields
from ...config_json import Settings, pair, settings
from ...convert import Config, Converter, Plan, Rule, register_converter
from ...rules import (
    activation_of,
    dense_rules,
    depth_of,
    nearest_plan,
    need,
    norm_rules,
    patch_kernel,
    qkv_rules,
)

Tensors = Mapping[str, np.ndarray]
BLOCK = "blocks/layer0/"
NAMES = ("q_proj", "k_proj", "v_proj")
OTHERS = (r"text_model\..*", r"logit_\w+", r"text_projection\.weight", r".*position_ids")


def one_row(x: np.ndarray) -> np.ndarray:
    """[D] -> [1, D]."""
    return x[None]


def prefix_of(tensors: Tensors) -> str:
    return "vision_model." if any(k.startswith("vision_model.") for k in tensors) else ""


CLIP = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
}


def sized(size: tuple[int, int], patch: int) -> Fields:
    """Of frames whose sides the patch does not divide, a strided convolution drops the rest."""
    return {"image_size": size} | ({"ragged": True} if any(n % patch for n in size) else {})


def block_rules(prefix: str, depth: int) -> list[Rule]:
    """The blocks under ``prefix``, a regex: both towers have the same."""
    layer = prefix + r"encoder\.layers\.(?P<layer>\d+)\."
    rules = qkv_rules(layer + r"self_attn\.", BLOCK + "attn/qkv", NAMES, depth)
    rules += dense_rules(layer + r"self_attn\.out_proj", BLOCK + "attn/out", depth)
    rules += dense_rules(layer + r"mlp\.fc1", BLOCK + "mlp/up", depth)
    rules += dense_rules(layer + r"mlp\.fc2", BLOCK + "mlp/down", depth)
    rules += norm_rules(layer + "layer_norm1", BLOCK + "norm1", depth)
    return rules + norm_rules(layer + "layer_norm2", BLOCK + "norm2", depth)


def tower_fields(tensors: Tensors, prefix: str, shown: Settings, patch: int) -> dict:
    """The config fields of either family, but for those of the patches and positions."""
    dim = need(tensors, prefix + "post_layernorm.weight", shown.family).shape[0]
    hidden = need(tensors, prefix + "encoder.layers.0.mlp.fc1.weight", shown.family).shape[0]
    depth = depth_of(tensors, prefix + "encoder.layers.")
    shown.agree(
        hidden_size=dim, num_hidden_layers=depth, intermediate_size=hidden, patch_size=patch
    )
    return {
        "patch": patch,
        "dim": dim,
        "depth": depth,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown),
        "eps": shown["layer_norm_eps"],
    }


def frame_size(shown: Settings, patch: int, cells: int) -> tuple[int, int]:
    """The frames that a table of cells x cells is for, as the config says."""
    size = pair(shown["image_size"])
    if {side // patch for side in size} != {cells}:
        shown.agree(image_size=cells * patch)
    return size


def plan_clip(tensors: Tensors, config: Config) -> Plan:
    """Of the image tower of CLIP."""
    prefix, shown = prefix_of(tensors), settings(config, "CLIP", CLIP, "vision_config")
    patches = need(tensors, prefix + "embeddings.patch_embedding.weight", "CLIP")
    table = need(tensors, prefix + "embeddings.position_embedding.weight", "CLIP")
    patch, side = patches.shape[-1], math.isqrt(len(table) - 1)
    projection = tensors.get("visual_projection.weight")
    fields = tower_fields(tensors, prefix, shown, patch) | {
        **sized(frame_size(shown, patch, side), patch),
        "projection": 0 if projection is None else projection.shape[0],
    }
    regex = prefix.replace(".", r"\.")
    rules = [
        Rule(regex + r"embeddings\.patch_embedding\.weight", "patch_embed/kernel", patch_kernel),
        Rule(regex + r"embeddings\.class_embedding", "class_tokens", one_row),
        Rule(regex + r"embeddings\.position_embedding\.weight", "positions"),
        *norm_rules(regex + "pre_layrnorm", "norm_pre"),  # so spelt in the published files
        *norm_rules(regex + "post_layernorm", "norm"),
        *block_rules(regex, fields["depth"]),
    ]
    if projection is not None:
        rules += dense_rules("visual_projection", "projection", bias=False)
    return nearest_plan(("clip-*",), fields, rules, OTHERS)


def _is_clip(keys: frozenset[str], config: Config) -> bool:
    kinds = ("clip", "clip_vision_model")
    if config and config.get("model_type", "clip") not in kinds:
        return False
    return bool({"vision_model.pre_layrnorm.weight", "pre_layrnorm.weight"} & keys)


register_converter(
    Converter(
        "clip-transformers",
        _is_clip,
        plan_clip,
        "the image tower of CLIP, as transformers saves it",
    )
)

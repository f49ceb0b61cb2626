"""Converter tables of the image towers of CLIP, SigLIP and SigLIP 2 (fixed grid and NaFlex).

Of a checkpoint with both towers the text tower and the similarity's scale are left out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..convert import Converter, Plan, Rule, linear, register_converter, squeeze0
from ..rules import (
    activation_of,
    dense_rules,
    depth_of,
    heads_of,
    nearest_plan,
    need,
    norm_rules,
    patch_kernel,
    qkv_rules,
)

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
BLOCK = "blocks/layer0/"
NAMES = ("q_proj", "k_proj", "v_proj")
OTHERS = (r"text_model\..*", r"logit_\w+", r"text_projection\.weight", r".*position_ids")


def one_row(x: np.ndarray) -> np.ndarray:
    """[D] -> [1, D]."""
    return x[None]


def query_part(x: np.ndarray) -> np.ndarray:
    """The queries of a torch.nn.MultiheadAttention in_proj [3D, D] or [3D]: kernel or bias."""
    return x[: len(x) // 3].T


def key_value_part(x: np.ndarray) -> np.ndarray:
    """The keys and values of the same: [D, 2D] or [2D]."""
    return x[len(x) // 3 :].T


def _prefix(tensors: Tensors) -> str:
    return "vision_model." if any(k.startswith("vision_model.") for k in tensors) else ""


def _tower(config: Config) -> Mapping[str, Any]:
    """The part of a config that is about images."""
    config = config or {}
    return config.get("vision_config") or config


def block_rules(prefix: str, depth: int) -> list[Rule]:
    """The blocks under ``prefix``, a regex: both towers have the same."""
    layer = prefix + r"encoder\.layers\.(?P<layer>\d+)\."
    rules = qkv_rules(layer + r"self_attn\.", BLOCK + "attn/qkv", NAMES, depth)
    rules += dense_rules(layer + r"self_attn\.out_proj", BLOCK + "attn/out", depth)
    rules += dense_rules(layer + r"mlp\.fc1", BLOCK + "mlp/up", depth)
    rules += dense_rules(layer + r"mlp\.fc2", BLOCK + "mlp/down", depth)
    rules += norm_rules(layer + "layer_norm1", BLOCK + "norm1", depth)
    return rules + norm_rules(layer + "layer_norm2", BLOCK + "norm2", depth)


def _fields(tensors: Tensors, prefix: str, config: Mapping[str, Any], family: str) -> dict:
    """The config fields of either family, but for those of the patches and positions."""
    dim = need(tensors, prefix + "post_layernorm.weight", family).shape[0]
    hidden = need(tensors, prefix + "encoder.layers.0.mlp.fc1.weight", family).shape[0]
    return {
        "dim": dim,
        "depth": depth_of(tensors, prefix + "encoder.layers."),
        "heads": heads_of(config, dim),
        "mlp_ratio": hidden / dim,
    }


def plan_clip(tensors: Tensors, config: Config) -> Plan:
    """Of the image tower of CLIP."""
    prefix, shown = _prefix(tensors), _tower(config)
    fields = _fields(tensors, prefix, shown, "CLIP")
    patches = need(tensors, prefix + "embeddings.patch_embedding.weight", "CLIP")
    table = need(tensors, prefix + "embeddings.position_embedding.weight", "CLIP")
    patch, side = patches.shape[-1], math.isqrt(len(table) - 1)
    projection = tensors.get("visual_projection.weight")
    fields |= {
        "patch": patch,
        "image_size": (side * patch, side * patch),
        "activation": activation_of(shown, "quick_gelu"),
        "eps": shown.get("layer_norm_eps", 1e-5),
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


def _pool_rules(prefix: str) -> list[Rule]:
    head = prefix + r"head\."
    rules = [Rule(head + "probe", "pool/probe", squeeze0)]
    for name, ours in (("weight", "kernel"), ("bias", "bias")):
        source = head + rf"attention\.in_proj_{name}"
        rules.append(Rule(source, f"pool/query/{ours}", query_part))
        rules.append(Rule(source, f"pool/kv/{ours}", key_value_part))
    rules += dense_rules(head + r"attention\.out_proj", "pool/out")
    rules += norm_rules(head + "layernorm", "pool/norm")
    rules += dense_rules(head + r"mlp\.fc1", "pool/mlp/up")
    return rules + dense_rules(head + r"mlp\.fc2", "pool/mlp/down")


def plan_siglip(tensors: Tensors, config: Config) -> Plan:
    """Of the image tower of SigLIP or SigLIP 2."""
    prefix, shown = _prefix(tensors), _tower(config)
    fields = _fields(tensors, prefix, shown, "SigLIP")
    patches = need(tensors, prefix + "embeddings.patch_embedding.weight", "SigLIP")
    table = need(tensors, prefix + "embeddings.position_embedding.weight", "SigLIP")
    flexible = patches.ndim == 2  # NaFlex: patches come as rows [p * p * 3]
    patch = math.isqrt(patches.shape[1] // 3) if flexible else patches.shape[-1]
    side = math.isqrt(len(table))
    pooled = prefix + "head.probe" in tensors
    fields |= {
        "patch": patch,
        "image_size": (side * patch, side * patch),
        "activation": activation_of(shown, "gelu_pytorch_tanh"),
        "eps": shown.get("layer_norm_eps", 1e-6),
        "resize": "bilinear-aa" if flexible else "bicubic",
        "pool": "map" if pooled else "none",
    }
    regex = prefix.replace(".", r"\.")
    kernel = linear if flexible else patch_kernel
    rules = [
        Rule(regex + r"embeddings\.patch_embedding\.weight", "patch_embed/kernel", kernel),
        Rule(regex + r"embeddings\.patch_embedding\.bias", "patch_embed/bias"),
        Rule(regex + r"embeddings\.position_embedding\.weight", "positions"),
        *norm_rules(regex + "post_layernorm", "norm"),
        *block_rules(regex, fields["depth"]),
    ]
    if pooled:
        rules += _pool_rules(regex)
    names = ("siglip2-*",) if flexible else ("siglip-*",)
    return nearest_plan(names, fields, rules, OTHERS)


def _is_siglip(keys: frozenset[str], config: Config) -> bool:
    kinds = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
    if config and config.get("model_type", "siglip") not in kinds:
        return False
    table, extra = "embeddings.position_embedding.weight", "embeddings.class_embedding"
    return any(
        {p + table, p + "post_layernorm.weight"} <= keys and p + extra not in keys
        for p in ("vision_model.", "")
    )


register_converter(
    Converter(
        "clip-transformers",
        _is_clip,
        plan_clip,
        "the image tower of CLIP, as transformers saves it",
    )
)
register_converter(
    Converter(
        "siglip-transformers",
        _is_siglip,
        plan_siglip,
        "the image tower of SigLIP and SigLIP 2 (also NaFlex), as transformers saves it",
    )
)

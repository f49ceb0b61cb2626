"""Converter table of the image towers of SigLIP and SigLIP 2 (fixed grid and NaFlex).

Of a checkpoint with both towers the text tower and the similarity's scale are left out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, Plan, Rule, linear, register_converter, squeeze0
from ...rules import dense_rules, nearest_plan, need, norm_rules, patch_kernel
from ..clip.convert import (
    CLIP,
    OTHERS,
    block_rules,
    frame_size,
    prefix_of,
    sized,
    tower_fields,
)

Tensors = Mapping[str, np.ndarray]
SIGLIP = CLIP | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "patch_size": 16}
# NaFlex: the table's cells in place of a frame's size
FLEXIBLE = {k: v for k, v in SIGLIP.items() if k != "image_size"} | {"num_patches": 256}


def query_part(x: np.ndarray) -> np.ndarray:
    """The queries of a torch.nn.MultiheadAttention in_proj [3D, D] or [3D]: kernel or bias."""
    return x[: len(x) // 3].T


def key_value_part(x: np.ndarray) -> np.ndarray:
    """The keys and values of the same: [D, 2D] or [2D]."""
    return x[len(x) // 3 :].T


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
    prefix = prefix_of(tensors)
    patches = need(tensors, prefix + "embeddings.patch_embedding.weight", "SigLIP")
    table = need(tensors, prefix + "embeddings.position_embedding.weight", "SigLIP")
    flexible = patches.ndim == 2  # NaFlex: patches come as rows [p * p * 3]
    shown = settings(config, "SigLIP", FLEXIBLE if flexible else SIGLIP, "vision_config")
    patch = math.isqrt(patches.shape[1] // 3) if flexible else patches.shape[-1]
    side = math.isqrt(len(table))
    pooled = prefix + "head.probe" in tensors
    if flexible:
        shown.agree(num_patches=len(table))
    size = (side * patch, side * patch) if flexible else frame_size(shown, patch, side)
    fields = tower_fields(tensors, prefix, shown, patch) | {
        **sized(size, patch),
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
        "siglip-transformers",
        _is_siglip,
        plan_siglip,
        "the image tower of SigLIP and SigLIP 2 (also NaFlex), as transformers saves it",
    )
)

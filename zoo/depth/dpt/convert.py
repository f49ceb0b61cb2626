"""DPT with a plain vision transformer, as transformers saves it and the hub holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter, squeeze0
from ...encode.vit import ImageViTConfig
from ...rules import (
    activation_of,
    dense_rules,
    depth_of,
    need,
    norm_rules,
    patch_kernel,
    qkv_rules,
)
from ..rules import UNUSED, depth_plan, head_rules, in_encoder, neck_rules

DEFAULTS = {
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "backbone_out_indices": [2, 5, 8, 11],
    "readout_type": "project",
    "is_hybrid": False,
    "add_projection": False,
}
BLOCK = "blocks/layer0/"


def _encoder_rules(depth: int, biased: str) -> list[Rule]:
    stem, layer = r"dpt\.embeddings\.", r"dpt\.encoder\.layer\.(?P<layer>\d+)\."
    rules = [
        Rule(stem + r"cls_token", "class_tokens", squeeze0),
        Rule(stem + r"position_embeddings", "positions", squeeze0),
        Rule(stem + r"patch_embeddings\.projection\.weight", "patch_embed/kernel", patch_kernel),
        Rule(stem + r"patch_embeddings\.projection\.bias", "patch_embed/bias"),
    ]
    names = ("query", "key", "value")
    rules += qkv_rules(layer + r"attention\.attention\.", BLOCK + "attn/qkv", names, depth, biased)
    rules += dense_rules(layer + r"attention\.output\.dense", BLOCK + "attn/out", depth)
    rules += dense_rules(layer + r"intermediate\.dense", BLOCK + "mlp/up", depth)
    rules += dense_rules(layer + r"output\.dense", BLOCK + "mlp/down", depth)
    rules += norm_rules(layer + "layernorm_before", BLOCK + "norm1", depth)
    return rules + norm_rules(layer + "layernorm_after", BLOCK + "norm2", depth)


def _plan(tensors: Mapping[str, np.ndarray], config: Config) -> Plan:
    shown = settings(config, "DPT", DEFAULTS)
    for key in ("is_hybrid", "add_projection"):
        if shown[key]:
            raise ConvertError(f"DPT: config.json says {key}: that body is not here")
    if shown["readout_type"] not in ("project", "ignore"):
        raise ConvertError(f"DPT: readout_type {shown['readout_type']!r} is not here")
    patch = need(tensors, "dpt.embeddings.patch_embeddings.projection.weight", "DPT")
    table = need(tensors, "dpt.embeddings.position_embeddings", "DPT")
    up = need(tensors, "dpt.encoder.layer.0.intermediate.dense.weight", "DPT")
    dim, size = patch.shape[0], patch.shape[-1]
    side, depth = math.isqrt(table.shape[1] - 1), depth_of(tensors, "dpt.encoder.layer.")
    shown.agree(hidden_size=dim, num_hidden_layers=depth, patch_size=size)
    biased = "qkv" if "dpt.encoder.layer.0.attention.attention.query.bias" in tensors else ""
    readout = shown["readout_type"] == "project"
    first, last = (need(tensors, f"head.head.{i}.weight", "DPT") for i in (0, 4))
    widths = (need(tensors, f"neck.convs.{i}.weight", "DPT").shape[1] for i in range(4))
    fields = {
        "encoder": ImageViTConfig(
            (side * size, side * size),
            size,
            dim,
            depth,
            shown.heads(dim),
            up.shape[0] / dim,
            activation_of(shown),
            biased=biased,
            eps=shown["layer_norm_eps"],
            final_norm="none",
            resize="bilinear",
            pool="none",
        ),
        "layers": tuple(int(i) for i in shown["backbone_out_indices"]),
        "normed": False,
        "readout": shown["readout_type"],
        "widths": tuple(widths),
        "fused": first.shape[1],
        "hidden": last.shape[1],
        "doubles": True,
    }
    rules = in_encoder(_encoder_rules(depth, biased)) + neck_rules(readout)
    rules += head_rules(*(rf"head\.head\.{i}" for i in (0, 2, 4)))
    ignore = (UNUSED, r"dpt\.layernorm\..*", r"dpt\.pooler\..*", r"auxiliary_head\..*")
    return depth_plan(("dpt-*",), fields, rules, ignore)


def _detect(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "dpt") != "dpt":
        return False
    return {"dpt.embeddings.cls_token", "head.head.0.weight"} <= keys


register_converter(
    Converter("dpt-transformers", _detect, _plan, "DPT (MiDaS 3), as transformers saves it")
)

"""Converter table of VideoPrism's vision encoder as transformers saves it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, Plan, Rule, register_converter, squeeze0
from ...rules import activation_of, dense_rules, depth_of, nearest_plan, need, qkv_rules
from ..vjepa2.convert import LAYER, tubelet_kernel

Tensors = Mapping[str, np.ndarray]


def plus_one(x: np.ndarray) -> np.ndarray:
    """A norm's gain that is kept as its distance from 1."""
    return x + 1


def _gain_rules(source: str, target: str, stack: int | None = None) -> list[Rule]:
    return [
        Rule(source + r"\.weight", target + "/scale", plus_one, stack=stack),
        Rule(source + r"\.bias", target + "/bias", stack=stack),
    ]


def _stack_rules(prefix: str, target: str, depth: int) -> list[Rule]:
    layer, block = prefix + r"\.(?P<layer>\d+)\.", target + "/" + LAYER
    names = ("q_proj", "k_proj", "v_proj")
    return [
        *qkv_rules(layer + r"attention\.", block + "attn/qkv", names, depth),
        *dense_rules(layer + r"attention\.o_proj", block + "attn/out", depth),
        *dense_rules(layer + r"mlp\.fc1", block + "mlp/up", depth),
        *dense_rules(layer + r"mlp\.fc2", block + "mlp/down", depth),
        *_gain_rules(layer + "layernorm_before", block + "norm1", depth),
        *_gain_rules(layer + "layernorm_after", block + "norm2", depth),
    ]


VIDEOPRISM = {
    "num_attention_heads": 12,
    "hidden_act": "gelu_python",
    "layer_norm_eps": 1e-6,
    "attn_logit_softcapping": 50.0,
}


def _plan_videoprism(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "VideoPrism", VIDEOPRISM, "vision_config")
    family, stem = "VideoPrism", "spatial_embeddings."
    weight = need(tensors, stem + "patch_embeddings.projection.weight", family)
    places = need(tensors, stem + "position_embeddings", family)
    times = need(tensors, "temporal_embeddings.position_embeddings", family)
    hidden = need(tensors, "spatial_layers.0.mlp.fc1.weight", family).shape[0]
    dim, patch, side = weight.shape[0], weight.shape[-1], math.isqrt(places.shape[1])
    depth, late = depth_of(tensors, "spatial_layers."), depth_of(tensors, "temporal_layers.")
    shown.agree(
        hidden_size=dim,
        num_spatial_layers=depth,
        num_temporal_layers=late,
        intermediate_size=hidden,
        num_frames=times.shape[1],
        image_size=side * patch,
    )
    fields = {
        "image_size": (side * patch, side * patch),
        "patch": patch,
        "frames": times.shape[1],
        "dim": dim,
        "depth": depth,
        "temporal_depth": late,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown),
        "softcap": shown["attn_logit_softcapping"],
        "eps": shown["layer_norm_eps"],
    }
    stem = stem.replace(".", r"\.")
    rules = [
        Rule(stem + r"patch_embeddings\.projection\.weight", "patch_embed/kernel", tubelet_kernel),
        Rule(stem + r"patch_embeddings\.projection\.bias", "patch_embed/bias"),
        Rule(stem + r"position_embeddings", "places", squeeze0),
        Rule(r"temporal_embeddings\.position_embeddings", "times", squeeze0),
        *_stack_rules("spatial_layers", "blocks", depth),
        *_stack_rules("temporal_layers", "temporal_blocks", late),
        *_gain_rules("layernorm1", "norm_spatial"),
        *_gain_rules("layernorm2", "norm"),
    ]
    return nearest_plan(("videoprism-*",), fields, rules)


def _is_videoprism(keys: frozenset[str], config: Config) -> bool:
    kinds = ("videoprism_vision_model", "videoprism")
    if config and config.get("model_type", kinds[0]) not in kinds:
        return False
    return {"spatial_layers.0.attention.q_proj.weight", "layernorm2.weight"} <= keys


register_converter(
    Converter(
        "videoprism-transformers", _is_videoprism, _plan_videoprism, "VideoPrism's vision encoder"
    )
)

"""Converter tables of the video encoders V-JEPA 2 and VideoPrism, as transformers saves them.

V-JEPA 2's predictor, which is of its pre-training, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..convert import (
    Converter,
    Plan,
    Rule,
    conv3d,
    identity,
    linear,
    register_converter,
    squeeze0,
)
from ..rules import (
    activation_of,
    dense_rules,
    depth_of,
    heads_of,
    nearest_plan,
    need,
    norm_rules,
    qkv_rules,
)
from .vjepa2 import pair_order

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
LAYER = "layer0/"
HEADS = {1280: 16}  # heads that are not 64 wide


def tubelet_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv3d weight [O, 3, t, p, p] -> dense kernel [t * p * p * 3, O]."""
    return conv3d(x).reshape(-1, x.shape[0])


# --- V-JEPA 2 --------------------------------------------------------------------------------


def _sorted_heads(heads: int):
    """(transform of a weight, of a bias): the channels of each head as ``pair_order`` wants."""

    def sort(x: np.ndarray) -> np.ndarray:
        by_head = x.reshape(heads, -1, *x.shape[1:])
        return by_head[:, pair_order(by_head.shape[1])].reshape(x.shape)

    def sorted_linear(x: np.ndarray) -> np.ndarray:
        return linear(sort(x))

    return sorted_linear, sort


def _vjepa2_attention(layer: str, depth: int, heads: int, biased: str) -> list[Rule]:
    turned_kernel, turned_bias = _sorted_heads(heads)
    target = "blocks/" + LAYER + "attn/qkv"
    rules = []
    for part, name in enumerate(("query", "key", "value")):
        kernel, bias = (linear, identity) if name == "value" else (turned_kernel, turned_bias)
        fields: dict[str, Any] = dict(stack=depth, part=(part, 3))
        source = layer + rf"attention\.{name}\."
        rules.append(Rule(source + "weight", target + "/kernel", kernel, **fields))
        if biased:
            rules.append(Rule(source + "bias", target + "/bias", bias, **fields))
    return rules


def _plan_vjepa2(tensors: Tensors, config: Config) -> Plan:
    config = config or {}
    prefix = "vjepa2." if any(k.startswith("vjepa2.") for k in tensors) else ""
    root = prefix + "encoder."
    weight = need(tensors, root + "embeddings.patch_embeddings.proj.weight", "V-JEPA 2")
    dim, _, tubelet, patch, _ = weight.shape
    depth = depth_of(tensors, root + "layer.")
    heads = config.get("num_attention_heads") or HEADS.get(dim) or heads_of(config, dim)
    hidden = need(tensors, root + "layer.0.mlp.fc1.weight", "V-JEPA 2").shape[0]
    biased = "qkv" if root + "layer.0.attention.query.bias" in tensors else ""
    side = config.get("crop_size", 256)
    fields = {
        "image_size": (side, side),
        "patch": patch,
        "tubelet": tubelet,
        "frames": config.get("frames_per_clip", 64),
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": hidden / dim,
        "activation": activation_of(config),
        "biased": biased,
        "eps": config.get("layer_norm_eps", 1e-6),
    }
    regex = root.replace(".", r"\.")
    layer = regex + r"layer\.(?P<layer>\d+)\."
    block = "blocks/" + LAYER
    rules = [
        Rule(
            regex + r"embeddings\.patch_embeddings\.proj\.weight",
            "patch_embed/kernel",
            tubelet_kernel,
        ),
        Rule(regex + r"embeddings\.patch_embeddings\.proj\.bias", "patch_embed/bias"),
        *_vjepa2_attention(layer, depth, heads, biased),
        *dense_rules(layer + r"attention\.proj", block + "attn/out", depth),
        *dense_rules(layer + r"mlp\.fc1", block + "mlp/up", depth),
        *dense_rules(layer + r"mlp\.fc2", block + "mlp/down", depth),
        *norm_rules(layer + "norm1", block + "norm1", depth),
        *norm_rules(layer + "norm2", block + "norm2", depth),
        *norm_rules(regex + "layernorm", "norm"),
    ]
    ignore = (r"(vjepa2\.)?predictor\..*", r"pooler\..*", r"classifier\..*")
    return nearest_plan(("vjepa2-*",), fields, rules, ignore)


def _is_vjepa2(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "vjepa2") != "vjepa2":
        return False
    tail = "encoder.embeddings.patch_embeddings.proj.weight"
    return tail in keys or f"vjepa2.{tail}" in keys


# --- VideoPrism ------------------------------------------------------------------------------


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


def _plan_videoprism(tensors: Tensors, config: Config) -> Plan:
    config = config or {}
    family, stem = "VideoPrism", "spatial_embeddings."
    weight = need(tensors, stem + "patch_embeddings.projection.weight", family)
    places = need(tensors, stem + "position_embeddings", family)
    times = need(tensors, "temporal_embeddings.position_embeddings", family)
    hidden = need(tensors, "spatial_layers.0.mlp.fc1.weight", family).shape[0]
    dim, patch, side = weight.shape[0], weight.shape[-1], math.isqrt(places.shape[1])
    depth, late = depth_of(tensors, "spatial_layers."), depth_of(tensors, "temporal_layers.")
    fields = {
        "image_size": (side * patch, side * patch),
        "patch": patch,
        "frames": times.shape[1],
        "dim": dim,
        "depth": depth,
        "temporal_depth": late,
        "heads": heads_of(config, dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(config, "gelu_python"),
        "softcap": config.get("attn_logit_softcapping", 50.0),
        "eps": config.get("layer_norm_eps", 1e-6),
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
    Converter("vjepa2-transformers", _is_vjepa2, _plan_vjepa2, "the encoder of V-JEPA 2")
)
register_converter(
    Converter(
        "videoprism-transformers", _is_videoprism, _plan_videoprism, "VideoPrism's vision encoder"
    )
)

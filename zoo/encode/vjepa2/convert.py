"""Converter table of V-JEPA 2 as transformers saves it.

Its predictor, which is of its pre-training, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Fields
from ...config_json import pair, settings
from ...convert import Config, Converter, Plan, Rule, conv3d, identity, linear, register_converter
from ...rules import activation_of, dense_rules, depth_of, nearest_plan, need, norm_rules
from .model import pair_order

Tensors = Mapping[str, np.ndarray]
LAYER = "layer0/"


def tubelet_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv3d weight [O, 3, t, p, p] -> dense kernel [t * p * p * 3, O]."""
    return conv3d(x).reshape(-1, x.shape[0])


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
        fields: Fields = dict(stack=depth, part=(part, 3))
        source = layer + rf"attention\.{name}\."
        rules.append(Rule(source + "weight", target + "/kernel", kernel, **fields))
        if biased:
            rules.append(Rule(source + "bias", target + "/bias", bias, **fields))
    return rules


VJEPA2 = {
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "crop_size": 256,
    "frames_per_clip": 64,
}


def _plan_vjepa2(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "V-JEPA 2", VJEPA2)
    prefix = "vjepa2." if any(k.startswith("vjepa2.") for k in tensors) else ""
    root = prefix + "encoder."
    weight = need(tensors, root + "embeddings.patch_embeddings.proj.weight", "V-JEPA 2")
    dim, _, tubelet, patch, _ = weight.shape
    depth = depth_of(tensors, root + "layer.")
    heads = shown.heads(dim)
    hidden = need(tensors, root + "layer.0.mlp.fc1.weight", "V-JEPA 2").shape[0]
    biased = "qkv" if root + "layer.0.attention.query.bias" in tensors else ""
    shown.agree(
        hidden_size=dim, num_hidden_layers=depth, patch_size=patch, tubelet_size=tubelet,
        qkv_bias=bool(biased),
    )  # fmt: skip
    if "mlp_ratio" in shown.stated:
        shown.agree(mlp_ratio=shown["mlp_ratio"] if int(dim * shown["mlp_ratio"]) == hidden
                    else hidden / dim)  # fmt: skip
    fields = {
        "image_size": pair(shown["crop_size"]),
        "patch": patch,
        "tubelet": tubelet,
        "frames": shown["frames_per_clip"],
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown),
        "biased": biased,
        "eps": shown["layer_norm_eps"],
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


register_converter(
    Converter("vjepa2-transformers", _is_vjepa2, _plan_vjepa2, "the encoder of V-JEPA 2")
)

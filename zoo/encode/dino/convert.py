"""Converter tables of DINOv2, DINOv2 with registers and DINOv3 (so of EUPE, the same body).

The layouts are those transformers writes and the hub holds, and for DINOv3 and EUPE also the names
of the research code (``research.py``). The mask token is of pre-training and
left out; so is the classifier of the image classification models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...config_json import pair, settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter, squeeze0
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
from .research import as_transformers, config_of, is_research

Tensors = Mapping[str, np.ndarray]
BLOCK = "blocks/layer0/"


def _stem(prefix: str, patches: str, registers: bool) -> list[Rule]:
    """``prefix`` is a regex, ``patches`` the name of the projection after it."""
    rules = [
        Rule(prefix + patches + r"\.weight", "patch_embed/kernel", patch_kernel),
        Rule(prefix + patches + r"\.bias", "patch_embed/bias"),
        Rule(prefix + r"embeddings\.cls_token", "class_tokens", squeeze0),
    ]
    if registers:
        rules.append(Rule(prefix + r"embeddings\.register_tokens", "registers", squeeze0))
    return rules


def _branches(layer: str, depth: int) -> list[Rule]:
    """What both generations call the same: norms and gains."""
    rules = norm_rules(layer + "norm1", BLOCK + "norm1", depth)
    rules += norm_rules(layer + "norm2", BLOCK + "norm2", depth)
    for i in (1, 2):
        source = layer + rf"layer_scale{i}\.lambda1"
        rules.append(Rule(source, BLOCK + f"scale{i}/gain", stack=depth))
    return rules


# --- DINOv2 ----------------------------------------------------------------------------------


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.split(x, 2, axis=0)
    return first, second


def gate_half(x: np.ndarray) -> np.ndarray:
    """The gate of a fused [gate; up] weight [2F, D] or bias [2F]: [D, F] or [F]."""
    return _halves(x)[0].T


def up_half(x: np.ndarray) -> np.ndarray:
    """The other half of :func:`gate_half`."""
    return _halves(x)[1].T


def _meant(side: Any, patch: int, cells: int) -> Any:
    """``side`` if a table of ``cells`` is that of frames of it, else the side of such frames."""
    return side if {n // patch for n in pair(side)} == {cells} else cells * patch


def _dinov2_mlp(layer: str, depth: int, gated: bool) -> list[Rule]:
    up, down = BLOCK + "mlp/up", BLOCK + "mlp/down"
    if not gated:
        return dense_rules(layer + r"mlp\.fc1", up, depth) + dense_rules(
            layer + r"mlp\.fc2", down, depth
        )
    rules = dense_rules(layer + r"mlp\.weights_out", down, depth)
    for name, ours in (("weight", "kernel"), ("bias", "bias")):
        source = layer + rf"mlp\.weights_in\.{name}"
        rules.append(Rule(source, f"{BLOCK}mlp/gate/{ours}", gate_half, stack=depth))
        rules.append(Rule(source, f"{up}/{ours}", up_half, stack=depth))
    return rules


DINOV2 = {
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}


def plan_dinov2(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "DINOv2", DINOV2)
    prefix = next((k.split("embeddings")[0] for k in tensors if "embeddings.cls_token" in k), "")
    patches = prefix + "embeddings.patch_embeddings.projection"
    weight = need(tensors, patches + ".weight", "DINOv2")
    table = need(tensors, prefix + "embeddings.position_embeddings", "DINOv2")
    dim, layers = weight.shape[0], prefix + "encoder.layer."
    depth, gated = depth_of(tensors, layers), f"{layers}0.mlp.weights_in.weight" in tensors
    registers = tensors.get(prefix + "embeddings.register_tokens")
    biased = "qkv" if f"{layers}0.attention.attention.query.bias" in tensors else ""
    down = f"{layers}0.mlp." + ("weights_out" if gated else "fc2") + ".weight"
    hidden = need(tensors, down, "DINOv2").shape[1]
    side = math.isqrt(table.shape[1] - 1)
    shown.agree(
        hidden_size=dim,
        num_hidden_layers=depth,
        patch_size=weight.shape[-1],
        use_swiglu_ffn=gated,
        qkv_bias=bool(biased),
        **({} if registers is None else {"num_register_tokens": registers.shape[1]}),
    )
    if "image_size" in shown.stated:
        shown.agree(image_size=_meant(shown["image_size"], weight.shape[-1], side))
    fields = {
        "patch": weight.shape[-1],
        "dim": dim,
        "depth": depth,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "gated": gated,
        "activation": "silu" if gated else activation_of(shown),
        "biased": biased,
        "eps": shown["layer_norm_eps"],
        "registers": 0 if registers is None else registers.shape[1],
        "table_grid": (side, side),
    }
    regex = prefix.replace(".", r"\.")
    layer = regex + r"encoder\.layer\.(?P<layer>\d+)\."
    rules = _stem(regex, r"embeddings\.patch_embeddings\.projection", registers is not None)
    rules.append(Rule(regex + r"embeddings\.position_embeddings", "positions", squeeze0))
    names = ("query", "key", "value")
    qkv = BLOCK + "attn/qkv"
    rules += qkv_rules(layer + r"attention\.attention\.", qkv, names, depth, biased)
    rules += dense_rules(layer + r"attention\.output\.dense", BLOCK + "attn/out", depth)
    rules += _branches(layer, depth) + _dinov2_mlp(layer, depth, gated)
    rules += norm_rules(regex + "layernorm", "norm")
    ignore = (regex + r"embeddings\.mask_token", r"classifier\..*")
    family = "dinov2-*" if registers is None else "dinov2reg-*"
    return nearest_plan((family,), fields, rules, ignore)


def _is_dinov2(keys: frozenset[str], config: Config) -> bool:
    kinds = ("dinov2", "dinov2_with_registers")
    if config and config.get("model_type", "dinov2") not in kinds:
        return False
    tail = "encoder.layer.0.attention.attention.query.weight"
    prefixes = ("", "dinov2.", "dinov2_with_registers.")
    return any({p + tail, p + "embeddings.cls_token"} <= keys for p in prefixes) and any(
        key.endswith("layer_scale1.lambda1") for key in keys
    )


# --- DINOv3 ----------------------------------------------------------------------------------


def _dinov3_biases(tensors: Tensors) -> str:
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
    return "".join(
        letter for letter, name in names.items() if f"layer.0.attention.{name}.bias" in tensors
    )


DINOV3 = {
    "num_attention_heads": 6,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
}


def _plan_dinov3(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "DINOv3", DINOV3)
    weight = need(tensors, "embeddings.patch_embeddings.weight", "DINOv3")
    dim, depth = weight.shape[0], depth_of(tensors, "layer.")
    gated = "layer.0.mlp.gate_proj.weight" in tensors
    hidden = need(tensors, "layer.0.mlp.down_proj.weight", "DINOv3").shape[1]
    registers = need(tensors, "embeddings.register_tokens", "DINOv3").shape[1]
    biased = _dinov3_biases(tensors)
    for key in ("layer.0.attention.o_proj.bias", "layer.0.mlp.down_proj.bias"):
        if key not in tensors:
            raise ConvertError(f"a DINOv3 checkpoint without {key}: no such body here")
    shown.agree(
        hidden_size=dim,
        num_hidden_layers=depth,
        intermediate_size=hidden,
        patch_size=weight.shape[-1],
        num_register_tokens=registers,
        use_gated_mlp=gated,
        query_bias="q" in biased,
        key_bias="k" in biased,
        value_bias="v" in biased,
    )
    fields = {
        "patch": weight.shape[-1],
        "dim": dim,
        "depth": depth,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "gated": gated,
        "activation": activation_of(shown),
        "biased": biased,
        "eps": shown["layer_norm_eps"],
        "registers": registers,
        "rope_base": float(shown["rope_theta"]),
    }
    layer = r"layer\.(?P<layer>\d+)\."
    rules = _stem("", r"embeddings\.patch_embeddings", registers > 0)
    names = ("q_proj", "k_proj", "v_proj")
    rules += qkv_rules(layer + r"attention\.", BLOCK + "attn/qkv", names, depth, biased)
    rules += dense_rules(layer + r"attention\.o_proj", BLOCK + "attn/out", depth)
    for name in ("gate", "up", "down") if gated else ("up", "down"):
        rules += dense_rules(layer + rf"mlp\.{name}_proj", BLOCK + f"mlp/{name}", depth)
    rules += _branches(layer, depth) + norm_rules("norm", "norm")
    ignore = [r"embeddings\.mask_token"]
    ignore += [r"embeddings\.register_tokens"] * (registers == 0)
    return nearest_plan(("dinov3-*", "eupe-*"), fields, rules, ignore)


def _plan_research(tensors: Tensors, config: Config) -> Plan:
    named = as_transformers(tensors)
    plan = _plan_dinov3(named, config_of(tensors) | dict(config or {}))
    return dataclasses.replace(plan, prepare=lambda _: named)


def _is_dinov3(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "dinov3_vit") != "dinov3_vit":
        return False
    return {"layer.0.attention.q_proj.weight", "embeddings.cls_token"} <= keys


register_converter(
    Converter(
        "dinov2-transformers",
        _is_dinov2,
        plan_dinov2,
        "DINOv2 with or without registers, as transformers saves it",
    )
)
register_converter(
    Converter(
        "dinov3-transformers",
        _is_dinov3,
        _plan_dinov3,
        "DINOv3 ViT and EUPE ViT, as transformers saves them",
    )
)
register_converter(
    Converter(
        "dinov3-meta",
        lambda keys, _: is_research(keys),
        _plan_research,
        "DINOv3 ViT and EUPE ViT, research code's names",
    )
)

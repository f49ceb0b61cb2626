"""Converter table of RADIO (C-RADIO) in the layout of nvidia/C-RADIOv4-H.

The input conditioner of the file is the mean and standard deviation of the card: our frames come
normalised. Adapter heads to single teachers are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..convert import Converter, ConvertError, Plan, Rule, register_converter, squeeze0
from ..rules import (
    activation_of,
    dense_rules,
    depth_of,
    nearest_plan,
    need,
    norm_rules,
    patch_kernel,
)
from .models_vit import OPENAI

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
BODY = "radio_model.model."
STEM = BODY + "patch_generator."
BLOCK = "blocks/layer0/"
HEADS = {768: 12, 1024: 16, 1280: 16}  # of published widths; the config may not tell


def flat_patch_kernel(x: np.ndarray) -> np.ndarray:
    """A Linear over patches laid out colour by colour [O, 3 * p * p] -> kernel [p * p * 3, O]."""
    side = math.isqrt(x.shape[1] // 3)
    return patch_kernel(x.reshape(len(x), 3, side, side))


def _conditioned(tensors: Tensors) -> None:
    for name, card in (("norm_mean", OPENAI["mean"]), ("norm_std", OPENAI["std"])):
        found = tensors.get(f"radio_model.input_conditioner.{name}")
        if found is not None and not np.allclose(np.ravel(found), card, atol=1e-4):
            raise ConvertError(
                f"this RADIO checkpoint has {name} {np.ravel(found).tolist()}, our card says"
                f" {list(card)}: normalise frames yourself and set the file's to the card's"
            )


def _plan_radio(tensors: Tensors, config: Config) -> Plan:
    config = config or {}
    _conditioned(tensors)
    weight = need(tensors, STEM + "embedder.weight", "RADIO")
    table = need(tensors, STEM + "pos_embed", "RADIO")
    first = need(tensors, STEM + "cls_token.token", "RADIO")
    layers = BODY + "blocks."
    hidden = need(tensors, layers + "0.mlp.fc1.weight", "RADIO").shape[0]
    dim, depth, side = len(weight), depth_of(tensors, layers), math.isqrt(table.shape[1])
    classes = config.get("num_cls_tokens", 3)
    summary = tensors.get("radio_model.summary_idxs", np.arange(classes))
    heads = config.get("num_attention_heads") or HEADS.get(dim)
    if heads is None:
        raise ConvertError(f"RADIO of width {dim}: put config.json beside it, for the heads")
    scaled = layers + "0.layer_scale1.lambda1" in tensors
    fields = {
        "patch": math.isqrt(weight.shape[1] // 3),
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": hidden / dim,
        "activation": activation_of(config),
        "eps": config.get("layer_norm_eps", 1e-6),
        "layer_scale": 1.0 if scaled else None,
        "class_tokens": classes,
        "registers": len(first) - classes,
        "pool_tokens": tuple(int(i) for i in summary),
        "table_grid": (side, side),
    }

    def class_rows(x: np.ndarray) -> np.ndarray:
        return x[:classes]

    def register_rows(x: np.ndarray) -> np.ndarray:
        return x[classes:]

    stem, body = STEM.replace(".", r"\."), BODY.replace(".", r"\.")
    layer = body + r"blocks\.(?P<layer>\d+)\."
    rules = [
        Rule(stem + r"embedder\.weight", "patch_embed/kernel", flat_patch_kernel),
        Rule(stem + r"pos_embed", "positions", squeeze0),
        Rule(stem + r"cls_token\.token", "class_tokens", class_rows),
    ]
    if len(first) > classes:
        rules.append(Rule(stem + r"cls_token\.token", "registers", register_rows))
    rules += dense_rules(layer + r"attn\.qkv", BLOCK + "attn/qkv", depth)
    rules += dense_rules(layer + r"attn\.proj", BLOCK + "attn/out", depth)
    rules += dense_rules(layer + r"mlp\.fc1", BLOCK + "mlp/up", depth)
    rules += dense_rules(layer + r"mlp\.fc2", BLOCK + "mlp/down", depth)
    for i in (1, 2):
        rules += norm_rules(layer + f"norm{i}", BLOCK + f"norm{i}", depth)
        if scaled:
            gain = layer + rf"layer_scale{i}\.lambda1"
            rules.append(Rule(gain, BLOCK + f"scale{i}/gain", stack=depth))
    ignore = (r"radio_model\.input_conditioner\..*", r"radio_model\.summary_idxs")
    return nearest_plan(("radio-*",), fields, rules, ignore)


def _is_radio(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "radio") != "radio":
        return False
    return STEM + "embedder.weight" in keys


register_converter(
    Converter("radio-transformers", _is_radio, _plan_radio, "RADIO (C-RADIO), its backbone")
)

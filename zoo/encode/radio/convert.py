"""Converter table of RADIO (C-RADIO) in the layout of nvidia/C-RADIOv4-H.

The input conditioner of the file is the mean and standard deviation of the card: our frames come
normalised. A file with heads to the teachers gives the encoder alone (``radio-*``), or both
(``radio-adapted-*``); which class token a head reads is told by the config.json beside it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from ... import registry
from ...config_json import Settings, settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter, squeeze0
from ...rules import (
    activation_of,
    dense_rules,
    depth_of,
    nearest_plan,
    need,
    norm_rules,
    patch_kernel,
)
from ..families import OPENAI
from .model import AdaptedConfig, TeacherHeadConfig

Tensors = Mapping[str, np.ndarray]
BODY = "radio_model.model."
STEM = BODY + "patch_generator."
BLOCK = "blocks/layer0/"
ADAPTERS = "radio_model.adaptors."
# Published bodies, those of timm's ViT-B, L and H: (width, blocks) -> heads. The first project's
# config says nothing of them but names its version.
HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
RADIO = {
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "num_cls_tokens": 3,
}


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


def _shown(config: Config, dim: int, depth: int) -> Settings:
    if config is None or "model_type" in config:
        return settings(config, "RADIO", RADIO)
    told = {**RADIO, **config}
    told["num_attention_heads"] = config.get("num_attention_heads") or HEADS.get((dim, depth))
    if told["num_attention_heads"] is None:
        raise ConvertError(f"RADIO of width {dim}: config.json says nothing of num_attention_heads")
    return settings(told, "RADIO", RADIO)


def _plan_radio(tensors: Tensors, config: Config) -> Plan:
    _conditioned(tensors)
    weight = need(tensors, STEM + "embedder.weight", "RADIO")
    table = need(tensors, STEM + "pos_embed", "RADIO")
    first = need(tensors, STEM + "cls_token.token", "RADIO")
    layers = BODY + "blocks."
    hidden = need(tensors, layers + "0.mlp.fc1.weight", "RADIO").shape[0]
    dim, depth, side = len(weight), depth_of(tensors, layers), math.isqrt(table.shape[1])
    shown = _shown(config, dim, depth)
    shown.agree(
        hidden_size=dim,
        num_hidden_layers=depth,
        patch_size=math.isqrt(weight.shape[1] // 3),
    )
    classes = shown["num_cls_tokens"]
    if "num_registers" in shown.stated:
        shown.agree(num_registers=len(first) - classes)
    summary = tensors.get("radio_model.summary_idxs", np.arange(classes))
    scaled = layers + "0.layer_scale1.lambda1" in tensors
    fields = {
        "patch": math.isqrt(weight.shape[1] // 3),
        "dim": dim,
        "depth": depth,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown),
        "eps": shown["layer_norm_eps"],
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
    ignore = (
        r"radio_model\.input_conditioner\..*",
        r"radio_model\.summary_idxs",
        re.escape(ADAPTERS) + ".*",
    )
    return nearest_plan(("radio-*",), fields, rules, ignore)


def _head_sizes(tensors: Tensors, start: str) -> tuple[int, int, int]:
    """(hidden width, residual blocks, width of the answer) of the head whose keys start so.

    Raises ConvertError for the other kinds of head that exist.
    """
    first = need(tensors, start + "fc1.weight", "RADIO head of kind v2:")
    last = need(tensors, start + "final.2.weight", "RADIO head of kind v2:")
    return len(first), depth_of(tensors, start + "blocks."), len(last)


def _head_rules(start: str, target: str, blocks: int) -> list[Rule]:
    source = re.escape(start)
    rules = dense_rules(source + "fc1", target + "up") + norm_rules(
        source + r"final\.0", target + "norm"
    )
    for i in range(blocks):
        rules += norm_rules(source + rf"blocks\.{i}\.0", f"{target}norms_{i}")
        rules += dense_rules(source + rf"blocks\.{i}\.2", f"{target}inner_{i}")
    return rules + dense_rules(source + r"final\.2", target + "out")


def _plan_adapted(tensors: Tensors, config: Config) -> Plan:
    body = _plan_radio(tensors, config)
    told = (config or {}).get("adaptor_configs") or {}
    found = {k[len(ADAPTERS) :].split(".")[0] for k in tensors if k.startswith(ADAPTERS)}
    if not found or found - set(told):
        raise ConvertError(
            "this RADIO checkpoint has no heads to its teachers"
            if not found
            else f"heads {', '.join(sorted(found))}: put config.json with their adaptor_configs"
            " (head_idx) beside the file"
        )
    heads, rules = [], [dataclasses.replace(r, target=f"image/{r.target}") for r in body.rules]
    for i, name in enumerate(sorted(found, key=lambda n: (told[n]["head_idx"], n))):
        parts = {"summary": f"{ADAPTERS}{name}.head_mlp.", "spatial": f"{ADAPTERS}{name}.feat_mlp."}
        sizes = {part: _head_sizes(tensors, start) for part, start in parts.items()}
        upsample = (told[name].get("feature") or {}).get("upsample_factor") or 1
        heads.append(TeacherHeadConfig(name, told[name]["head_idx"], **sizes, upsample=upsample))
        for part, start in parts.items():
            rules += _head_rules(start, f"heads_{i}/{part}/", sizes[part][1])
    image = registry.model_config(body.model, **body.overrides)
    fields = dataclasses.asdict(AdaptedConfig(image, tuple(heads)))
    return Plan("radio-adapted-h16", rules, fields, body.ignore[:2])


def _is_radio(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "radio") != "radio":
        return False
    return STEM + "embedder.weight" in keys


register_converter(
    Converter("radio-transformers", _is_radio, _plan_radio, "RADIO (C-RADIO) without its heads")
)
register_converter(
    Converter(
        "radio-adapted",
        lambda keys, config: False,
        _plan_adapted,
        "RADIO with its heads to the teachers",
        models="radio-adapted-*",
    )
)

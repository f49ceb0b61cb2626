"""Converter tables of CLIP, SigLIP and SigLIP 2 with both towers.

The same files give the image tower alone (``convert_clip``), which is what a file is taken for
unless a name with both towers is asked for, or the converter by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import registry
from ..convert import Converter, Plan, Rule, register_converter
from ..rules import activation_of, dense_rules, depth_of, heads_of, need, norm_rules
from .convert_clip import block_rules, plan_clip, plan_siglip
from .dual import DualEncoderConfig, TextTowerConfig

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
TEXT = r"text_model\."


def _text_fields(tensors: Tensors, config: Config, activation: str) -> dict[str, Any]:
    shown = (config or {}).get("text_config") or {}
    root = "text_model."
    tokens = need(tensors, root + "embeddings.token_embedding.weight", "image and text")
    length = len(need(tensors, root + "embeddings.position_embedding.weight", "image and text"))
    hidden = len(need(tensors, root + "encoder.layers.0.mlp.fc1.weight", "image and text"))
    vocabulary, dim = tokens.shape
    return {
        "vocabulary": vocabulary,
        "length": length,
        "dim": dim,
        "depth": depth_of(tensors, root + "encoder.layers."),
        "heads": heads_of(shown, dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown, activation),
    }


def _text_rules(depth: int) -> list[Rule]:
    return [
        Rule(TEXT + r"embeddings\.token_embedding\.weight", "tokens"),
        Rule(TEXT + r"embeddings\.position_embedding\.weight", "positions"),
        *block_rules(TEXT, depth),
        *norm_rules(TEXT + "final_layer_norm", "norm"),
    ]


def _under(rules: list[Rule], tower: str) -> list[Rule]:
    return [dataclasses.replace(rule, target=f"{tower}/{rule.target}") for rule in rules]


def scalar(x: np.ndarray) -> np.ndarray:
    """[1] or [] -> []."""
    return x.reshape(())


def _plan(pattern: str, image: Plan, text: TextTowerConfig, rules: list[Rule], bias: bool) -> Plan:
    picture = registry.model_config(image.model, **image.overrides)
    config = DualEncoderConfig(picture, text, bias)
    names = [name for name in registry.list_models(pattern) if "/" not in name]
    same = [name for name in names if registry.model_config(name) == config]
    towers = {"image": dataclasses.asdict(picture), "text": dataclasses.asdict(text), "bias": bias}
    rules = _under(list(image.rules), "image") + _under(rules, "text")
    rules.append(Rule("logit_scale", "scale", scalar))
    if bias:
        rules.append(Rule("logit_bias", "bias", scalar))
    model, overrides = (same[0], {}) if same else (names[0], towers)
    return Plan(model, rules, overrides, (r".*position_ids",))


def _plan_clip_dual(tensors: Tensors, config: Config) -> Plan:
    shown = (config or {}).get("text_config") or {}
    end = shown.get("eos_token_id", 2)
    projection = need(tensors, "text_projection.weight", "CLIP")
    text = TextTowerConfig(
        **_text_fields(tensors, config, "quick_gelu"),
        eps=shown.get("layer_norm_eps", 1e-5),
        causal=True,
        end_token=-1 if end == 2 else end,  # 2 was an error of the first published configs
        projection=len(projection),
    )
    rules = _text_rules(text.depth) + dense_rules("text_projection", "projection", bias=False)
    return _plan("clip-dual-*", plan_clip(tensors, config), text, rules, bias=False)


def _plan_siglip_dual(tensors: Tensors, config: Config) -> Plan:
    shown = (config or {}).get("text_config") or {}
    head = need(tensors, "text_model.head.weight", "SigLIP")
    text = TextTowerConfig(
        **_text_fields(tensors, config, "gelu_pytorch_tanh"),
        eps=shown.get("layer_norm_eps", 1e-6),
        causal=False,
        end_token=None,
        projection=len(head),
        projection_bias=True,
    )
    rules = _text_rules(text.depth) + dense_rules(TEXT + "head", "projection")
    image = plan_siglip(tensors, config)
    pattern = image.model.partition("-")[0] + "-dual-*"
    return _plan(pattern, image, text, rules, bias=True)


def _never(keys: frozenset[str], config: Config) -> bool:
    return False


register_converter(
    Converter("clip-dual", _never, _plan_clip_dual, "CLIP with both towers", models="clip-dual-*")
)
register_converter(
    Converter(
        "siglip-dual",
        _never,
        _plan_siglip_dual,
        "SigLIP and SigLIP 2 with both towers",
        models="siglip*-dual-*",
    )
)

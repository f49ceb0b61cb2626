"""Converter tables of CLIP, SigLIP and SigLIP 2 with both towers.

The same files give the image tower alone (``convert_clip``), which is what a file is taken for
unless a name with both towers is asked for, or the converter by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ... import registry
from ...config_json import Settings, settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...rules import activation_of, dense_rules, depth_of, need, norm_rules
from ..clip.convert import block_rules, plan_clip
from ..siglip.convert import plan_siglip
from .model import DualEncoderConfig, TextTowerConfig

Tensors = Mapping[str, np.ndarray]
TEXT = r"text_model\."


CLIP_TEXT = {
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "hidden_size": 512,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "eos_token_id": 49_407,
}
SIGLIP_TEXT = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "max_position_embeddings": 64,
}


def _shown(config: Config, family: str, defaults: Mapping[str, Any]) -> Settings:
    if config is not None and not isinstance(config.get("text_config"), Mapping):
        raise ConvertError(f"{family}: config.json has no text_config; fetch that of both towers")
    return settings(config, f"{family}'s text tower", defaults, "text_config")


def _text_fields(tensors: Tensors, shown: Settings) -> Fields:
    root = "text_model."
    tokens = need(tensors, root + "embeddings.token_embedding.weight", "image and text")
    length = len(need(tensors, root + "embeddings.position_embedding.weight", "image and text"))
    hidden = len(need(tensors, root + "encoder.layers.0.mlp.fc1.weight", "image and text"))
    vocabulary, dim = tokens.shape
    depth = depth_of(tensors, root + "encoder.layers.")
    shown.agree(hidden_size=dim, num_hidden_layers=depth, max_position_embeddings=length)
    return {
        "vocabulary": vocabulary,
        "length": length,
        "dim": dim,
        "depth": depth,
        "heads": shown.heads(dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(shown),
        "eps": shown["layer_norm_eps"],
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
    shown = _shown(config, "CLIP", CLIP_TEXT)
    end = shown["eos_token_id"]
    projection = need(tensors, "text_projection.weight", "CLIP")
    text = TextTowerConfig(
        **_text_fields(tensors, shown),
        causal=True,
        end_token=-1 if end == 2 else end,  # 2 was an error of the first published configs
        projection=len(projection),
    )
    rules = _text_rules(text.depth) + dense_rules("text_projection", "projection", bias=False)
    return _plan("clip-dual-*", plan_clip(tensors, config), text, rules, bias=False)


def _plan_siglip_dual(tensors: Tensors, config: Config) -> Plan:
    shown = _shown(config, "SigLIP", SIGLIP_TEXT)
    head = need(tensors, "text_model.head.weight", "SigLIP")
    text = TextTowerConfig(
        **_text_fields(tensors, shown),
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

"""Converter table of BERT encoders as sentence-transformers publishes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...rules import activation_of, dense_rules, depth_of, need, norm_rules, qkv_rules

Tensors = Mapping[str, np.ndarray]
WORDS = "embeddings.word_embeddings.weight"
NEEDED = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "position_embedding_type": "absolute",
}
BESIDE = (r"(.*\.)?position_ids", r"(.*\.)?pooler\.dense\.\w+")  # of other uses of the encoder


def first_row(x: np.ndarray) -> np.ndarray:
    """[2, D] -> [D]: what marks a first text; a second one is never read."""
    return x[0]


def _prefix(tensors: Tensors) -> str:
    return "bert." if f"bert.{WORDS}" in tensors else ""


def _rules(at: str) -> list[Rule]:
    layer = at + r"encoder\.layer\.(?P<layer>\d+)\."
    ours = "blocks_{layer}/"
    own = layer + r"attention\.self\."
    return [
        Rule(at + r"embeddings\.word_embeddings\.weight", "tokens"),
        Rule(at + r"embeddings\.position_embeddings\.weight", "positions"),
        Rule(at + r"embeddings\.token_type_embeddings\.weight", "kind", first_row),
        *norm_rules(at + r"embeddings\.LayerNorm", "norm"),
        *qkv_rules(own, ours + "attn/qkv", ("query", "key", "value")),
        *dense_rules(layer + r"attention\.output\.dense", ours + "attn/out"),
        *norm_rules(layer + r"attention\.output\.LayerNorm", ours + "norm1"),
        *dense_rules(layer + r"intermediate\.dense", ours + "mlp/up"),
        *dense_rules(layer + r"output\.dense", ours + "mlp/down"),
        *norm_rules(layer + r"output\.LayerNorm", ours + "norm2"),
    ]


def plan_bert(tensors: Tensors, config: Config) -> Plan:
    """Of an encoder by itself, whose keys begin with "embeddings." or "bert."."""
    at = _prefix(tensors)
    said = settings(config, "BERT", NEEDED)
    if activation_of(said) != "gelu" or said["position_embedding_type"] != "absolute":
        raise ConvertError(
            f"BERT: hidden_act {said['hidden_act']!r} with {said['position_embedding_type']!r}"
            " positions; only gelu with absolute ones is known"
        )
    vocabulary, dim = need(tensors, at + WORDS, "BERT").shape
    length = len(need(tensors, at + "embeddings.position_embeddings.weight", "BERT"))
    hidden = len(need(tensors, at + "encoder.layer.0.intermediate.dense.weight", "BERT"))
    depth = depth_of(tensors, at + "encoder.layer.")
    said.agree(
        hidden_size=dim, num_hidden_layers=depth, intermediate_size=hidden,
        max_position_embeddings=length,
    )  # fmt: skip
    fields = dict(
        vocabulary=vocabulary, length=length, dim=dim, hidden=hidden, depth=depth,
        heads=said.heads(dim), eps=float(said["layer_norm_eps"]),
    )  # fmt: skip
    return Plan("minilm-l6", _rules(at.replace(".", r"\.")), fields, BESIDE)


def _is_bert(keys: frozenset[str], config: Config) -> bool:
    own = {WORDS, "bert." + WORDS} & keys
    return bool(own) and (config or {}).get("model_type") in ("bert", None)


register_converter(
    Converter("sentence", _is_bert, plan_bert, "BERT encoders of sentences (sentence-transformers)")
)

"""Moonshine v2 as transformers publishes it -> our parameters: all of it, or its encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv1d,
    linear,
    register_converter,
)
from ..moonshine.convert import bare_norm, decoding, turned_kernel

FAMILY = "Moonshine v2"
DECODES: Fields = {
    "num_attention_heads": 8,
    "hidden_act": "silu",
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.8},
}
ROOT = r"(model\.)?encoder\."
# what transformers' MoonshineStreamingEncoderConfig has where a file says nothing
DEFAULTS: Fields = {
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "hidden_act": "gelu",
    "attention_bias": False,
    "sample_rate": 16_000,
    "frame_ms": 5.0,
    "sliding_windows": [[16, 4], [16, 4], [16, 0], [16, 0], [16, 4], [16, 4]],
}


def gain(x: np.ndarray) -> np.ndarray:
    """A gain that is stored as what it has above 1."""
    return x + 1


def _encoder(blocks: int, under: str) -> list[Rule]:
    """Rules of the encoder, whose parameters lie ``under`` a path that ends in a slash."""
    return [dataclasses.replace(rule, target=under + rule.target) for rule in _rules(blocks)]


def _decoder(blocks: int, heads: int, turned: int, projects: bool) -> list[Rule]:
    root = r"(model\.)?decoder\."
    rules = [
        Rule(root + r"embed_tokens\.weight", "embed/embedding"),
        Rule(root + r"pos_emb\.weight", "places"),
        Rule(r"proj_out\.weight", "out/kernel", linear),
        *bare_norm(root + r"norm\.weight", "decoder_norm"),
    ]
    rules += [Rule(root + r"proj\.weight", "project/kernel", linear)] * projects
    for i in range(blocks):
        at, ours = root + rf"layers\.{i}\.", f"decoder_{i}"
        rules += bare_norm(at + r"input_layernorm\.weight", f"{ours}/norm1")
        own = at + r"self_attn\."
        for part, name in enumerate("qkv"):
            kernel = linear if name == "v" else turned_kernel(heads, turned)
            target = f"{ours}/attn/qkv/kernel"
            rules.append(Rule(own + rf"{name}_proj\.weight", target, kernel, part=(part, 3)))
        rules.append(Rule(own + r"o_proj\.weight", f"{ours}/attn/out/kernel", linear))
        rules += decoding(at, ours)
    return rules


def _rules(blocks: int) -> list[Rule]:
    rules = [
        Rule(ROOT + r"embedder\.comp\.log_k", "stem/layers_1/of/log_k"),
        Rule(ROOT + r"embedder\.linear\.weight", "stem/layers_1/of/kernel", linear),
        Rule(ROOT + r"final_norm\.gamma", "norm/scale", gain),
        Rule(ROOT + r"final_norm\.gamma", "norm/bias", np.zeros_like),  # it has none
    ]
    for theirs, ours in (("conv1", "layers_2"), ("conv2", "layers_4")):
        conv = ROOT + rf"embedder\.{theirs}\."
        rules.append(Rule(conv + "weight", f"stem/{ours}/kernel", conv1d))
        rules.append(Rule(conv + "bias", f"stem/{ours}/bias"))
    for i in range(blocks):
        at, ours = ROOT + rf"layers\.{i}\.", f"blocks_{i}"
        for theirs, norm in (("input", "norm1"), ("post_attention", "norm2")):
            gamma = at + rf"{theirs}_layernorm\.gamma"
            rules.append(Rule(gamma, f"{ours}/{norm}/scale", gain))
            rules.append(Rule(gamma, f"{ours}/{norm}/bias", np.zeros_like))
        for part, name in enumerate("qkv"):
            key = at + rf"self_attn\.{name}_proj\.weight"
            rules.append(Rule(key, f"{ours}/attn/qkv/kernel", linear, part=(part, 3)))
        rules.append(Rule(at + r"self_attn\.o_proj\.weight", f"{ours}/attn/out/kernel", linear))
        for theirs, name in (("fc1", "up"), ("fc2", "down")):
            rules.append(Rule(at + rf"mlp\.{theirs}\.weight", f"{ours}/mlp/{name}/kernel", linear))
            rules.append(Rule(at + rf"mlp\.{theirs}\.bias", f"{ours}/mlp/{name}/bias"))
    return rules


def _is_moonshine2(keys: frozenset[str], config: Config) -> bool:
    del config
    return any(key.endswith("encoder.embedder.comp.log_k") for key in keys)


def _plan(tensors: Mapping[str, np.ndarray], config: Config) -> Plan:
    said = settings(config, FAMILY, DEFAULTS, "encoder_config")
    one = {key.removeprefix("model."): key for key in tensors}
    shape = lambda key: tensors[one[f"encoder.{key}"]].shape
    dim, frame = shape("embedder.linear.weight")
    windows = tuple((w[0] - 1, max(w[1] - 1, 0)) for w in said["sliding_windows"])
    blocks = sum(key.endswith("input_layernorm.gamma") for key in tensors)
    if blocks != len(windows):
        raise ConvertError(
            f"{FAMILY}: config.json has {len(windows)} sliding_windows and the weights"
            f" {blocks} blocks; take both files from one repository"
        )
    if (said["hidden_act"], said["attention_bias"]) != ("gelu", False):
        raise ConvertError(f"{FAMILY}: only its gelu without biases in the attention is known")
    if said["num_key_value_heads"] != said["num_attention_heads"]:
        raise ConvertError(f"{FAMILY}: an encoder with fewer heads of keys is not known")
    if said["sample_rate"] * said["frame_ms"] / 1000 != frame:
        raise ConvertError(
            f"{FAMILY}: config.json says frames of {said['frame_ms']} ms, and the weights have"
            f" {frame} samples"
        )
    sizes = (dim, shape("layers.0.mlp.fc1.weight")[0], said.heads(dim), frame, windows)
    if "decoder.embed_tokens.weight" in one:
        return _whole(tensors, one, config, blocks, sizes)
    names = ("dim", "hidden", "heads", "frame", "windows")
    fields: Fields = dict(zip(names, sizes, strict=True))
    return Plan("moonshine2-encoder-tiny", _rules(blocks), fields)


def _whole(
    tensors: Mapping[str, np.ndarray],
    one: Mapping[str, str],
    config: Config,
    blocks: int,
    sizes: tuple,
) -> Plan:
    """The plan of encoder and decoder; ``sizes`` are the encoder's."""
    told = dict(config or {})
    said = settings({k: v for k, v in told.items() if k != "encoder_config"}, FAMILY, DECODES)
    if (said["hidden_act"], said["attention_bias"]) != ("silu", False):
        raise ConvertError(f"{FAMILY}: only its silu without biases in the attention is known")
    shape = lambda key: tensors[one[f"decoder.{key}"]].shape
    vocabulary, dim = shape("embed_tokens.weight")
    heads = said.heads(dim)
    rope = {**DECODES["rope_parameters"], **(said["rope_parameters"] or {})}
    turned = int(dim // heads * rope["partial_rotary_factor"])
    depth = sum(
        key.startswith("decoder.layers.") and key.endswith("input_layernorm.weight") for key in one
    )
    projects = "decoder.proj.weight" in one
    if not projects and dim != sizes[0]:
        raise ConvertError(f"{FAMILY}: {sizes[0]} features, a decoder of {dim} and no projection")
    names = ("features", "features_hidden", "features_heads", "frame", "windows")
    fields = dict(zip(names, sizes, strict=True)) | dict(
        dim=dim,
        hidden=shape("layers.0.mlp.fc2.weight")[1],
        heads=heads,
        decoder=depth,
        turned=turned,
        theta=float(rope["rope_theta"]),
        vocabulary=vocabulary,
        room=shape("pos_emb.weight")[0],
        start=said["bos_token_id"],
        end=said["eos_token_id"],
    )
    prepare = None
    if "proj_out.weight" not in one:  # stored once where it is tied
        tied = one["decoder.embed_tokens.weight"]
        prepare = lambda tensors: {**tensors, "proj_out.weight": tensors[tied]}
    rules = _encoder(blocks, "encoder/") + _decoder(depth, heads, turned, projects)
    return Plan("moonshine2-tiny", rules, fields, (), prepare)


register_converter(
    Converter(
        "moonshine2-transformers",
        _is_moonshine2,
        _plan,
        "Moonshine v2 (moonshine_streaming) as transformers publishes it, or its encoder alone",
    )
)

"""Moonshine v2 as transformers publishes it -> the parameters of its encoder."""

from __future__ import annotations

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
    said = settings(config, "Moonshine v2", DEFAULTS, "encoder_config")
    one = {key.removeprefix("model."): key for key in tensors}
    shape = lambda key: tensors[one[f"encoder.{key}"]].shape
    dim, frame = shape("embedder.linear.weight")
    windows = tuple((w[0] - 1, max(w[1] - 1, 0)) for w in said["sliding_windows"])
    blocks = sum(key.endswith("input_layernorm.gamma") for key in tensors)
    if blocks != len(windows):
        raise ConvertError(
            f"Moonshine v2: config.json has {len(windows)} sliding_windows and the weights"
            f" {blocks} blocks; take both files from one repository"
        )
    if (said["hidden_act"], said["attention_bias"]) != ("gelu", False):
        raise ConvertError("Moonshine v2: only its gelu without biases in the attention is known")
    if said["num_key_value_heads"] != said["num_attention_heads"]:
        raise ConvertError("Moonshine v2: an encoder with fewer heads of keys is not known")
    if said["sample_rate"] * said["frame_ms"] / 1000 != frame:
        raise ConvertError(
            f"Moonshine v2: config.json says frames of {said['frame_ms']} ms, and the weights have"
            f" {frame} samples"
        )
    fields = dict(
        dim=dim,
        hidden=shape("layers.0.mlp.fc1.weight")[0],
        heads=said.heads(dim),
        frame=frame,
        windows=windows,
    )
    return Plan(
        "moonshine2-encoder-tiny", _rules(blocks), fields, (r"(model\.)?decoder\..*", "proj_out.*")
    )


register_converter(
    Converter(
        "moonshine2-transformers",
        _is_moonshine2,
        _plan,
        "the encoder of Moonshine v2 (moonshine_streaming) as transformers publishes it",
    )
)

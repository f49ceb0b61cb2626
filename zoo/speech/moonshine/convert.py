"""Moonshine as published -> our parameters: transformers' layout, or ONNX Runtime's two files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import (
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv1d,
    linear,
    register_converter,
)
from ...ort import read_ort
from .model import turned_first

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
DECODER = "decoder_model_merged.ort"
# what transformers' MoonshineConfig has where a file says nothing
DEFAULTS: Fields = {
    "encoder_num_attention_heads": 8,
    "decoder_num_attention_heads": 8,
    "encoder_hidden_act": "gelu",
    "decoder_hidden_act": "silu",
    "attention_bias": False,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
}
# the ORT files' config is not beside them: it is that of the published base model
BASE = {"model_type": "moonshine", "partial_rotary_factor": 0.62, "rope_theta": 10_000.0}


def bare_norm(pattern: str, target: str) -> list[Rule]:
    """A norm that is published without a bias."""
    return [Rule(pattern, f"{target}/scale"), Rule(pattern, f"{target}/bias", np.zeros_like)]


def turned_kernel(heads: int, turned: int) -> Callable[[np.ndarray], np.ndarray]:
    """A projection whose heads' channels come in the order of ``turned_first``."""

    def kernel(x: np.ndarray) -> np.ndarray:
        order = turned_first(len(x) // heads, turned)
        return x.reshape(heads, -1, x.shape[1])[:, order].reshape(x.shape).T

    return kernel


def _rules(encoder: int, decoder: int, heads: int, turned: int) -> list[Rule]:
    rules = [Rule(r"model\.decoder\.embed_tokens\.weight", "embed/embedding")]
    rules += bare_norm(r"model\.encoder\.layer_norm\.weight", "encoder_norm")
    rules += bare_norm(r"model\.decoder\.norm\.weight", "decoder_norm")
    rules.append(Rule(r"model\.encoder\.groupnorm\.weight", "gain"))
    rules.append(Rule(r"model\.encoder\.groupnorm\.bias", "offset"))
    for i in (1, 2, 3):
        rules.append(Rule(rf"model\.encoder\.conv{i}\.weight", f"conv{i}/kernel", conv1d))
        if i > 1:
            rules.append(Rule(rf"model\.encoder\.conv{i}\.bias", f"conv{i}/bias"))
    for side, depth in (("encoder", encoder), ("decoder", decoder)):
        for i in range(depth):
            at, ours = rf"model\.{side}\.layers\.{i}\.", f"{side}_{i}"
            rules += bare_norm(at + r"input_layernorm\.weight", f"{ours}/norm1")
            own = at + r"self_attn\."
            for part, name in enumerate("qkv"):
                kernel = linear if name == "v" else turned_kernel(heads, turned)
                key, target = own + rf"{name}_proj\.weight", f"{ours}/attn/qkv/kernel"
                rules.append(Rule(key, target, kernel, part=(part, 3)))
            rules.append(Rule(own + r"o_proj\.weight", f"{ours}/attn/out/kernel", linear))
            rules += _mlp(at, ours) if side == "encoder" else decoding(at, ours)
    return rules


def _mlp(at: str, ours: str) -> list[Rule]:
    rules = bare_norm(at + r"post_attention_layernorm\.weight", f"{ours}/norm2")
    for theirs, name in (("fc1", "up"), ("fc2", "down")):
        rules.append(Rule(at + rf"mlp\.{theirs}\.weight", f"{ours}/mlp/{name}/kernel", linear))
        rules.append(Rule(at + rf"mlp\.{theirs}\.bias", f"{ours}/mlp/{name}/bias"))
    return rules


def decoding(at: str, ours: str) -> list[Rule]:
    rules = bare_norm(at + r"post_attention_layernorm\.weight", f"{ours}/norm_cross")
    rules += bare_norm(at + r"final_layernorm\.weight", f"{ours}/norm2")
    heard = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    for theirs, name in heard.items():
        key = at + rf"encoder_attn\.{theirs}\.weight"
        rules.append(Rule(key, f"{ours}/cross/{name}/kernel", linear))
    half = lambda x, k: np.split(x, 2)[k]
    for k, name in enumerate(("up", "gate")):  # one matrix makes both
        weight = lambda x, k=k: half(x, k).T
        rules.append(Rule(at + r"mlp\.fc1\.weight", f"{ours}/mlp/{name}/kernel", weight))
        bias = lambda x, k=k: half(x, k)
        rules.append(Rule(at + r"mlp\.fc1\.bias", f"{ours}/mlp/{name}/bias", bias))
    rules.append(Rule(at + r"mlp\.fc2\.weight", f"{ours}/mlp/down/kernel", linear))
    rules.append(Rule(at + r"mlp\.fc2\.bias", f"{ours}/mlp/down/bias"))
    return rules


# --- ONNX Runtime's files --------------------------------------------------------------------


def _published(graph: Tensors, side: str) -> dict[str, np.ndarray]:
    """The tensors of one ORT file under transformers' names and in its layout."""
    found = {}
    for key, array in graph.items():
        name = key.removeprefix("model.decoder.")
        match = re.fullmatch(r"(.+)\.(MatMul|Conv|Mul|Add|Gather)\.(\d)", name)
        if match is None:
            continue
        of, operation, place = match.groups()
        of = of.replace(".dense", ".o_proj")
        if side == "decoder":
            of = of.replace("up_proj", "fc1").replace("down_proj", "fc2")
        bias = operation == "Add" or (operation, place) == ("Conv", "2")
        if operation == "MatMul":
            array = array.T
        if of == "groupnorm":
            array = array.reshape(-1)
        found[f"model.{side}.{of}.{'bias' if bias else 'weight'}"] = array
    return found


def _both(tensors: Tensors, told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    decoder = Path(told["file"]).with_name(DECODER)
    if not decoder.is_file():
        raise ConvertError(f"{told['file']}: {DECODER}, the other half of Moonshine, is not beside")
    return _published(tensors, "encoder") | _published(read_ort(decoder)[0], "decoder")


def _is_moonshine(keys: frozenset[str], told: Config) -> bool:
    del told
    return (
        any(key.endswith("encoder.groupnorm.weight") for key in keys) or "groupnorm.Mul.1" in keys
    )


def _plan(tensors: Tensors, told: Config) -> Plan:
    graph = (told or {}).get("graph") == "ort"
    prepare = None
    if graph:
        both = _both(tensors, told or {})
        tensors, told, prepare = both, BASE, lambda _: both
    said = settings(told, "Moonshine", DEFAULTS)
    heads = said["encoder_num_attention_heads"]
    if (said["encoder_hidden_act"], said["decoder_hidden_act"]) != ("gelu", "silu"):
        raise ConvertError("Moonshine: only gelu in its encoder and silu in its decoder are known")
    if said["attention_bias"] or said["decoder_num_attention_heads"] != heads:
        raise ConvertError("Moonshine: attention with biases, or other heads in the decoder")
    rope = {**(told or {}), **((told or {}).get("rope_parameters") or {})}
    if "partial_rotary_factor" not in rope:
        raise ConvertError("Moonshine: config.json does not say partial_rotary_factor")
    stem = tensors["model.encoder.conv3.weight"].shape
    dim, inner = stem[0], tensors["model.encoder.layers.0.mlp.fc1.weight"].shape[0]
    depth = lambda side: sum(
        re.fullmatch(rf"model\.{side}\.layers\.\d+\.input_layernorm\.weight", key) is not None
        for key in tensors
    )
    fields = dict(
        dim=dim,
        hidden=inner,
        heads=heads,
        encoder=depth("encoder"),
        decoder=depth("decoder"),
        turned=int(dim // heads * rope["partial_rotary_factor"]),
        theta=float(rope.get("rope_theta", 10_000.0)),
        vocabulary=len(tensors["model.decoder.embed_tokens.weight"]),
        start=said["decoder_start_token_id"],
        end=said["eos_token_id"],
    )
    for key in ("k_proj", "q_proj"):
        at = f"model.encoder.layers.0.self_attn.{key}.weight"
        if tensors[at].shape[0] != dim:
            raise ConvertError(f"Moonshine: {at} is {tensors[at].shape}: grouped heads")
    rules = _rules(fields["encoder"], fields["decoder"], heads, fields["turned"])
    name = "moonshine-tiny" if dim < 400 else "moonshine-base"
    return Plan(name, rules, fields, ("proj_out.*", r".*rotary_emb\..*"), prepare)


register_converter(
    Converter(
        "moonshine",
        _is_moonshine,
        _plan,
        "Moonshine as transformers publishes it, or the .ort files of moonshine-cpp",
    )
)

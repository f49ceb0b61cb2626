"""Whisper as published -> our parameters: transformers' layout, OpenAI's (CarelessWhisper's, with
its LoRA added to the weights), or CTranslate2's model.bin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
from .model import sinusoids

Tensors = Mapping[str, np.ndarray]
FAMILY = "Whisper"
# what transformers' WhisperConfig has where a file says nothing
DEFAULTS: Fields = {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "activation_function": "gelu",
    "eos_token_id": 50_256,
    "scale_embedding": False,
}
HEAD = 64  # channels of a head of every published size
# OpenAI's names -> transformers', in this order
OPENAI = (
    (r"\.blocks\.", ".layers."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"attn\.out\.", "attn.out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.ln_post\.", ".layer_norm."),
    (r"decoder\.ln\.", "decoder.layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
)
ADDED = re.compile(r"(.+)\.lora_layer\.lora_([AB])")


def openai_names(tensors: Tensors) -> dict[str, np.ndarray]:
    """OpenAI's tensors under transformers' names; a LoRA, x A B, is added to its layer."""
    found: dict[str, np.ndarray] = {}
    added: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        name = key.replace(".base_layer.", ".")
        if match := ADDED.fullmatch(name):
            name = f"{match[1]}.weight"
        for pattern, target in OPENAI:
            name = re.sub(pattern, target, name)
        name = f"model.{name.removeprefix('model.')}"
        if match:
            added.setdefault(name, {})[match[2]] = np.asarray(value, np.float32)
        else:
            found[name] = value
    for name, pair in added.items():
        if pair.keys() != {"A", "B"} or name not in found:
            raise ConvertError(f"{FAMILY}: half of the LoRA of {name}")
        found[name] = np.asarray(found[name], np.float32) + (pair["A"] @ pair["B"]).T
    return found


def ctranslate2_names(tensors: Tensors) -> dict[str, np.ndarray]:
    """CTranslate2's tensors under transformers' names, stacked projections apart."""
    found: dict[str, np.ndarray] = {}

    def put(name: str, part: str, value: np.ndarray) -> None:
        found[f"model.{name}.{part}"] = np.asarray(value, np.float32)

    norms = {"self_attention": "self_attn", "attention": "encoder_attn"}
    for key, value in tensors.items():
        side, *way, part = key.split("/")
        if side not in ("encoder", "decoder") or value.ndim == 0:
            continue  # heads, flags, the kind of the activation
        at = side
        if way and way[0].startswith("layer_") and way[0] != "layer_norm":
            at, way = f"{side}.layers.{way[0].removeprefix('layer_')}", way[1:]
        part = {"gamma": "weight", "beta": "bias"}.get(part, part)
        match way:
            case ["conv1" | "conv2" as name]:
                put(f"{at}.{name}", part, value)
            case ["position_encodings"]:
                put(f"{at}.embed_positions", "weight", value)
            case ["embeddings"]:
                put(f"{at}.embed_tokens", part, value)
            case ["layer_norm"]:
                put(f"{at}.layer_norm", part, value)
            case ["self_attention" | "attention" as name, "layer_norm"]:
                put(f"{at}.{norms[name]}_layer_norm", part, value)
            case ["ffn", "layer_norm"]:
                put(f"{at}.final_layer_norm", part, value)
            case ["ffn", "linear_0" | "linear_1" as name]:
                put(f"{at}.fc{int(name[-1]) + 1}", part, value)
            case ["self_attention" | "attention" as name, n] if n.startswith("linear_"):
                own = {"self_attention": ("qkv", "o"), "attention": ("q", "kv", "o")}[name]
                names = own[int(n[-1])]
                for one, rows in zip(names, np.split(value, len(names)), strict=True):
                    if one == "k" and part == "bias":
                        if rows.any():
                            raise ConvertError(f"{FAMILY}: {key}: keys with a bias")
                        continue
                    put(f"{at}.{norms[name]}.{'out' if one == 'o' else one}_proj", part, rows)
            case ["projection"]:
                pass  # tied to the embeddings
            case _:
                raise ConvertError(f"{FAMILY}: {key} of the CTranslate2 file is not known")
    return found


def _pair(rules: list[Rule], key: str, target: str, weight: Any = None, **options: Any) -> None:
    change = {} if weight is None else {"transform": weight}
    kernel = "scale" if weight is None else "kernel"
    rules.append(Rule(key + r"\.weight", f"{target}/{kernel}", **change, **options))
    rules.append(Rule(key + r"\.bias", f"{target}/bias", **options))


def _attention(rules: list[Rule], at: str, ours: str, **options: Any) -> None:
    for part, name in enumerate("qkv"):
        key, target = at + rf"self_attn\.{name}_proj", f"{ours}/attn/qkv"
        rules.append(Rule(key + r"\.weight", f"{target}/kernel", linear, part=(part, 3), **options))
        if name != "k":
            row = (0 if name == "q" else 1, 2)
            rules.append(Rule(key + r"\.bias", f"{target}/bias", part=row, **options))
    _pair(rules, at + r"self_attn\.out_proj", f"{ours}/attn/out", linear, **options)
    for theirs, name in (("self_attn_layer_norm", "norm1"), ("final_layer_norm", "norm2")):
        _pair(rules, at + theirs, f"{ours}/{name}", **options)
    for theirs, name in (("fc1", "up"), ("fc2", "down")):
        _pair(rules, at + theirs, f"{ours}/mlp/{name}", linear, **options)


def _rules(encoder: int, decoder: int) -> list[Rule]:
    rules = [
        Rule(r"model\.decoder\.embed_tokens\.weight", "embed/embedding"),
        Rule(r"model\.decoder\.embed_positions\.weight", "places"),
        Rule(r"model\.encoder\.embed_positions\.weight", "net/layers_4/table"),
    ]
    for theirs, ours in (("conv1", "layers_0"), ("conv2", "layers_2")):
        _pair(rules, rf"model\.encoder\.{theirs}", f"net/{ours}", conv1d)
    for side in ("encoder", "decoder"):
        _pair(rules, rf"model\.{side}\.layer_norm", f"{side}_norm")
    at = r"model\.encoder\.layers\.(?P<layer>\d+)\."
    _attention(rules, at, "net/layers_5/block", stack=encoder)
    for i in range(decoder):
        at, ours = rf"model\.decoder\.layers\.{i}\.", f"decoder_{i}"
        _attention(rules, at, ours)
        _pair(rules, at + "encoder_attn_layer_norm", f"{ours}/norm_cross")
        for theirs, name in (("q", "query"), ("v", "value"), ("out", "out")):
            _pair(rules, at + rf"encoder_attn\.{theirs}_proj", f"{ours}/cross/{name}", linear)
        key = at + r"encoder_attn\.k_proj\.weight"
        rules.append(Rule(key, f"{ours}/cross/key/kernel", linear))
    return rules


def _named(tensors: Tensors, told: Config) -> tuple[dict[str, np.ndarray], bool]:
    """(the tensors under transformers' names, whether they came under others)."""
    if (told or {}).get("graph") == "ctranslate2":
        return ctranslate2_names(tensors), True
    if any(".blocks.0." in key for key in tensors):
        return openai_names(tensors), True
    bare = not any(key.startswith("model.") for key in tensors)
    return {f"model.{key}" if bare else key: value for key, value in tensors.items()}, bare


def _placed(tensors: Tensors, told: Config, window: int) -> dict[str, np.ndarray]:
    """As ``_named``, with the encoder's places, which are not always stored."""
    found, _ = _named(tensors, told)
    key = "model.encoder.embed_positions.weight"
    dim = found["model.encoder.layer_norm.weight"].shape[0]
    return {key: sinusoids(window, dim), **found}


def _is_whisper(keys: frozenset[str], told: Config) -> bool:
    if (told or {}).get("graph") == "ctranslate2":
        return (told or {}).get("spec") == "WhisperSpec"
    keys = frozenset(key.removeprefix("model.") for key in keys)
    openai = any(key.startswith("decoder.blocks.0.cross_attn.") for key in keys)
    # Moonshine has such convolutions and attention too, and other names for its norms
    theirs = "decoder.layers.0.encoder_attn_layer_norm.weight" in keys
    return "encoder.conv1.weight" in keys and (openai or theirs)


def _plan(tensors: Tensors, told: Config) -> Plan:
    given, other = _named(tensors, told)
    shape = lambda key: given[f"model.{key}"].shape
    dim, bands, _ = shape("encoder.conv1.weight")
    count = lambda side: sum(
        key.startswith(f"model.{side}.layers.") and key.endswith(".fc1.weight") for key in given
    )
    vocabulary = shape("decoder.embed_tokens.weight")[0]
    heads, end = dim // HEAD, 50_256 + (vocabulary > 51_864)
    if not other or told and "model_type" in told:
        said = settings(told, FAMILY, DEFAULTS)
        heads, end = said.heads(dim, "encoder_attention_heads"), said["eos_token_id"]
        if said["activation_function"] != "gelu" or said["scale_embedding"]:
            raise ConvertError(f"{FAMILY}: only gelu and embeddings as they are are known")
        if said["decoder_attention_heads"] != heads:
            raise ConvertError(f"{FAMILY}: its decoder has other heads than its encoder")
    elif (told or {}).get("graph") != "ctranslate2":
        heads = (told or {}).get("n_audio_head", heads)  # as OpenAI's dims call it
    window = 1500
    if "model.encoder.embed_positions.weight" in given:
        window = shape("encoder.embed_positions.weight")[0]
    if shape("encoder.layers.0.fc1.weight")[0] != 4 * dim:
        raise ConvertError(f"{FAMILY}: MLPs of another width than 4 times the model's")
    fields = dict(
        dim=dim,
        heads=heads,
        encoder=count("encoder"),
        decoder=count("decoder"),
        bands=bands,
        vocabulary=vocabulary,
        end=end,
        window=window,
        chunk=15 if window % 15 == 0 else window,
        room=shape("decoder.embed_positions.weight")[0],
    )
    prepare = lambda tensors: _placed(tensors, told, window)
    rules = _rules(fields["encoder"], fields["decoder"])
    return Plan("whisper-tiny", rules, fields, (r"(model\.)?proj_out\..*",), prepare)


register_converter(
    Converter(
        "whisper",
        _is_whisper,
        _plan,
        "Whisper as transformers or OpenAI name it, with a LoRA or not, or as a CTranslate2 file",
    )
)

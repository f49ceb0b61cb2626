"""Language models as published -> our parameters: transformers' layout, or a GGUF file's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import Converter, ConvertError, Plan, Rule, linear, register_converter
from .model import RopeScaling
from .names import SIZES

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
FAMILIES = ("llama", "qwen2", "qwen3", "smollm3")
# what transformers' config classes have where a file says nothing; theta is in `_theta`
DEFAULTS: dict[str, Fields] = {
    "llama": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False},
    "qwen2": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False},
    "qwen3": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False},
    "smollm3": {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True},
}
THETAS = {"smollm3": 2_000_000.0}
# a GGUF file's names of a block's parts, and transformers'
PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def rules(depth: int, biased: bool, normed: bool, tied: bool, at: str = r"model\.") -> list[Rule]:
    """The table of a decoder whose keys begin with the regex ``at``."""
    layer = at + r"layers\.(?P<layer>\d+)\."
    ours = "blocks/layer0/"
    table = [
        Rule(at + r"embed_tokens\.weight", "embed/embedding"),
        Rule(at + r"norm\.weight", "norm/scale"),
        Rule(layer + r"input_layernorm\.weight", ours + "norm1/scale", stack=depth),
        Rule(layer + r"post_attention_layernorm\.weight", ours + "norm2/scale", stack=depth),
        Rule(layer + r"self_attn\.o_proj\.weight", ours + "attn/out/kernel", linear, stack=depth),
    ]
    for part, name in enumerate("qkv"):
        key = layer + rf"self_attn\.{name}_proj\."
        weight = ours + "attn/qkv/kernel"
        table.append(Rule(key + "weight", weight, linear, stack=depth, part=(part, 3)))
        if biased:
            table.append(Rule(key + "bias", ours + "attn/qkv/bias", stack=depth, part=(part, 3)))
    for name in ("gate", "up", "down"):
        key = layer + rf"mlp\.{name}_proj\.weight"
        table.append(Rule(key, ours + f"mlp/{name}/kernel", linear, stack=depth))
    if normed:
        for name, norm in (("q", "query_norm"), ("k", "key_norm")):
            key = layer + rf"self_attn\.{name}_norm\.weight"
            table.append(Rule(key, ours + f"attn/{norm}/scale", stack=depth))
    if not tied:
        table.append(Rule(r"lm_head\.weight", "head/kernel", linear))
    return table


def config_of(told: Config, tensors: Tensors, at: str = "model.") -> Fields:
    """The fields of our config, of a text model's config.json and the shapes of its weights.

    Raises:
      ConvertError: a family that is not known, or an option that our decoder lacks.
    """
    family = (told or {}).get("model_type", "")
    if family not in FAMILIES:
        raise ConvertError(f"a language model of model_type {family!r}; known: {FAMILIES}")
    needed = {"num_attention_heads": 1, "num_hidden_layers": 1, **DEFAULTS[family]}
    said = settings(told, family, needed)
    first = f"{at}layers.0."
    embedding = tensors[f"{at}embed_tokens.weight"]
    query = tensors[f"{first}self_attn.q_proj.weight"]
    heads = said["num_attention_heads"]
    head = said.get("head_dim") or query.shape[0] // heads
    kv_heads = tensors[f"{first}self_attn.k_proj.weight"].shape[0] // head
    found = dict(
        hidden_size=embedding.shape[1],
        vocab_size=embedding.shape[0],
        intermediate_size=tensors[f"{first}mlp.up_proj.weight"].shape[0],
        num_hidden_layers=_depth(tensors, at),
    )
    said.agree(**{key: value for key, value in found.items() if key in said})
    if query.shape[0] != heads * head or said.get("num_key_value_heads") not in (None, kv_heads):
        raise ConvertError(
            f"{family}: {heads} heads of {head}, and the queries are {query.shape[0]}"
        )
    _refuse(family, said)
    fields: Fields = dict(
        vocabulary=embedding.shape[0],
        dim=embedding.shape[1],
        hidden=tensors[f"{first}mlp.up_proj.weight"].shape[0],
        depth=_depth(tensors, at),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head,
        biased="qkv" if f"{first}self_attn.q_proj.bias" in tensors else "",
        normed=f"{first}self_attn.q_norm.weight" in tensors,
        # a head that is in the file is its own, whatever a config says
        tied="lm_head.weight" not in tensors,
        eps=float(said["rms_norm_eps"]),
        unturned=_unturned(said) if family == "smollm3" else 0,
        **_rope(told or {}, family),
    )
    if fields["tied"] and not said["tie_word_embeddings"]:
        raise ConvertError(f"{family}: lm_head.weight is missing, and config.json does not tie it")
    for ours, theirs in (("start", "bos_token_id"), ("end", "eos_token_id")):
        token = (told or {}).get(theirs)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int):
            fields[ours] = token
    return fields


def _depth(tensors: Tensors, at: str) -> int:
    return sum(
        k.startswith(f"{at}layers.") and k.endswith(".input_layernorm.weight") for k in tensors
    )


def _refuse(family: str, said: Mapping[str, Any]) -> None:
    if said["hidden_act"] != "silu":
        raise ConvertError(f"{family}: an MLP with {said['hidden_act']}; only silu is known")
    if said.get("use_sliding_window") and said.get("sliding_window"):
        raise ConvertError(f"{family}: sliding windows in some layers are not known")
    if said.get("mlp_bias"):
        raise ConvertError(f"{family}: biases in the MLPs are not known")


def _unturned(said: Mapping[str, Any]) -> int:
    every = said.get("no_rope_layer_interval", 4)
    layers = said.get("no_rope_layers")
    want = [int((i + 1) % every != 0) for i in range(said["num_hidden_layers"])]
    if layers and layers[: len(want)] == [1] * len(want):
        return 0
    if layers and layers[: len(want)] != want:
        raise ConvertError(f"smollm3: no_rope_layers {layers} are not every {every}th")
    return every


def _rope(told: Mapping[str, Any], family: str) -> Fields:
    rope = {**(told.get("rope_scaling") or {}), **(told.get("rope_parameters") or {})}
    theta = rope.get("rope_theta", told.get("rope_theta", THETAS.get(family, 10_000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields: Fields = {"theta": float(theta), "scaling": None, "sections": (), "interleaved": False}
    if "mrope_section" in rope:
        fields["sections"] = tuple(rope["mrope_section"])
        fields["interleaved"] = bool(rope.get("mrope_interleaved"))
    elif kind == "llama3":
        fields["scaling"] = RopeScaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    elif kind != "default":
        raise ConvertError(f"{family}: rotary embeddings of kind {kind!r} are not known")
    return fields


# --- GGUF ------------------------------------------------------------------------------------


def _is_gguf(told: Config) -> bool:
    return (told or {}).get("graph") == "gguf"


def _key(name: str) -> str:
    """transformers' name of a GGUF tensor; "" for what is no weight of a decoder."""
    plain = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in plain:
        return plain[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"model.layers.{block}.{PARTS[part]}.{kind}" if part in PARTS else ""


class _Renamed(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file under transformers' names and in its order of channels."""

    def __init__(self, tensors: Tensors, heads: Mapping[str, int]):
        self.tensors, self.heads = tensors, heads
        self.names = {key: name for name in tensors if (key := _key(name))}

    def __getitem__(self, key: str) -> np.ndarray:
        array = self.tensors[self.names[key]]
        part = self.names[key].split(".")[-2]
        if part not in self.heads or not isinstance(array, np.ndarray):
            return array
        # llama's rows of queries and keys come in pairs (2i, 2i + 1): back to (i, i + head / 2)
        pairs = array.reshape(self.heads[part], -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def from_gguf(tensors: Tensors, told: Mapping[str, Any]) -> tuple[Tensors, Fields]:
    """(the tensors in transformers' layout, what its config.json would say)."""
    said = told["metadata"]
    family = said.get("general.architecture", "")
    if family not in FAMILIES:
        raise ConvertError(f"a GGUF file of {family!r}; known: {', '.join(FAMILIES)}")
    get = lambda key, other=None: said.get(f"{family}.{key}", other)
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    config = {
        "model_type": family,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": get("block_count"),
        "head_dim": get("attention.key_length"),
        # float32 in the file: 1e-5 is written as 9.999999747378752e-06
        "rms_norm_eps": float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": get("rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": said.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": said.get("tokenizer.ggml.eos_token_id"),
    }
    if "rope_freqs.weight" in tensors or get("rope.scaling.type") not in (None, "none"):
        raise ConvertError("a GGUF file with scaled rotary embeddings is not known")
    turned = {"attn_q": heads, "attn_k": kv_heads} if family == "llama" else {}
    return _Renamed(tensors, turned), config


def _is_decoder(keys: frozenset[str], told: Config) -> bool:
    if _is_gguf(told):
        return "token_embd.weight" in keys
    own = {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"} <= keys
    return own and (told or {}).get("model_type") in (*FAMILIES, None)


def _plan(tensors: Tensors, told: Config) -> Plan:
    prepare, ignore = None, (r".*rotary_emb\.inv_freq",)
    if _is_gguf(told):
        renamed, told = from_gguf(tensors, told or {})
        tensors, prepare = renamed, lambda _: dict(renamed.items())
    if told is None or "model_type" not in told:
        raise ConvertError(
            "a language model: its config.json, which tells heads, angles and norms, is not beside"
            " the weights; fetch config.json of the same repository into the same folder"
        )
    fields = config_of(told, tensors)
    table = rules(fields["depth"], bool(fields["biased"]), fields["normed"], fields["tied"])
    return Plan(_name(told["model_type"], fields), table, fields, ignore, prepare)


def _name(family: str, fields: Fields) -> str:
    """The registered architecture whose config a checkpoint's is nearest to."""
    # the same family, and of its sizes the one of this width
    own = [name for name, (kind, _) in SIZES.items() if kind == family]
    return min(own, key=lambda name: abs(SIZES[name][1].dim - fields["dim"]))


register_converter(
    Converter(
        "decoder",
        _is_decoder,
        _plan,
        "Llama, Qwen2, Qwen3, SmolLM2 and SmolLM3 as transformers publishes them, or as GGUF",
    )
)

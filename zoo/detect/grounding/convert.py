"""Grounding DINO as transformers saves it and the hub holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...config_json import Settings, pair, settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ...rules import activation_of, dense_rules, depth_of, nearest_plan, need, norm_rules, qkv_rules
from ...text.sentence.convert import plan_bert
from ...text.sentence.model import SentenceConfig
from .config import GroundingConfig
from .swin import SwinConfig

Tensors = Mapping[str, np.ndarray]
FAMILY = "Grounding DINO"
DEFAULTS = {
    "d_model": 256,
    "num_queries": 900,
    "num_feature_levels": 4,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "encoder_n_points": 4,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "decoder_n_points": 4,
    "activation_function": "relu",
    "position_embedding_type": "sine",
    "positional_embedding_temperature": 20,
    "layer_norm_eps": 1e-5,
    "two_stage": True,
    "embedding_init_target": True,
    "decoder_bbox_embed_share": True,
    "two_stage_bbox_embed_share": False,
    "query_dim": 4,
}
ONLY = (  # what other values would mean is not known here
    "position_embedding_type", "two_stage", "embedding_init_target", "decoder_bbox_embed_share",
    "two_stage_bbox_embed_share", "query_dim",
)  # fmt: skip
SWIN = {
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "patch_size": 4,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
WORDS = "model.text_backbone."
TRUNK = "model.backbone.conv_encoder.model."
BESIDE = (
    r"model\.backbone\.conv_encoder\.model\.swin\.layernorm\.\w+",
    r".*relative_position_index",
    # one head for all blocks, which older files repeat
    r"(model\.decoder\.)?bbox_embed\.[1-9]\d*\..*",
    r"model\.decoder\.bbox_embed\.0\..*",
)


def _stages(trunk: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """The stages that are read, from 0; the file counts the stem as the first."""
    found = trunk.get("out_indices")
    if found is None:
        named = trunk.get("out_features")
        if named is None:
            return tuple(range(1, count))
        found = [str(name).removeprefix("stage") for name in named]
    stages = [int(n) if str(n).isdigit() else 0 for n in found]
    if not stages or min(stages) < 1 or max(stages) > count:
        raise ConvertError(f"{FAMILY}: config.json reads stages {stages} of a trunk of {count}")
    return tuple(n - 1 for n in stages)


def _trunk(tensors: Tensors, config: Config) -> SwinConfig:
    given = dict((config or {}).get("backbone_config") or {"model_type": "swin"})
    if given.get("model_type", "swin") != "swin":
        raise ConvertError(f"{FAMILY}: a trunk of type {given['model_type']!r}; Swin is known")
    said = settings(given, f"{FAMILY}, trunk", SWIN)
    if activation_of(said) != "gelu" or said["use_absolute_embeddings"]:
        raise ConvertError(f"{FAMILY}: a Swin with gelu and without absolute positions is known")
    if not all(isinstance(said[key], list) for key in ("depths", "num_heads")):
        raise ConvertError(f"{FAMILY}: config.json has depths {said['depths']}, not a list")
    first = TRUNK + "encoder.layers."
    stages = depth_of(tensors, first)
    blocks = [depth_of(tensors, f"{first}{i}.blocks.") for i in range(stages)]
    dim = len(need(tensors, TRUNK + "embeddings.norm.weight", FAMILY))
    said.agree(embed_dim=dim, depths=blocks)
    table = f"{first}0.blocks.0.attention.self.relative_position_bias_table"
    side = (round(len(need(tensors, table, FAMILY)) ** 0.5) + 1) // 2
    said.agree(window_size=side)
    return _made(
        SwinConfig,
        dim=dim,
        depths=tuple(blocks),
        heads=tuple(said["num_heads"]),
        window=side,
        patch=pair(said["patch_size"])[0],
        mlp_ratio=float(said["mlp_ratio"]),
        biased=said["qkv_bias"],
        read=_stages(given, stages),
        eps=float(said["layer_norm_eps"]),
    )


def _made(kind: Any, **fields: Any) -> Any:
    try:
        return kind(**fields)
    except ValueError as error:
        raise ConvertError(f"{FAMILY}: config.json: {error}") from None


def _counted(tensors: Tensors, said: Settings) -> None:
    """Raises ConvertError for blocks or levels that the file lacks."""
    said.agree(
        encoder_layers=depth_of(tensors, "model.encoder.layers."),
        decoder_layers=depth_of(tensors, "model.decoder.layers."),
        num_feature_levels=depth_of(tensors, "model.input_proj_vision."),
        num_queries=len(need(tensors, "model.query_position_embeddings.weight", FAMILY)),
        d_model=need(tensors, "model.level_embed", FAMILY).shape[1],
    )


def _plan(tensors: Tensors, config: Config) -> Plan:
    said = settings(config, FAMILY, DEFAULTS)
    for key in ONLY:
        if said[key] != DEFAULTS[key]:
            raise ConvertError(f"{FAMILY}: config.json has {key} {said[key]!r}: not known")
    _counted(tensors, said)
    inner = {k.removeprefix(WORDS): v for k, v in tensors.items() if k.startswith(WORDS)}
    words = plan_bert(inner, {"model_type": "bert", **((config or {}).get("text_config") or {})})
    named = {
        name: said[key]
        for name, key in (
            ("dim", "d_model"), ("levels", "num_feature_levels"), ("queries", "num_queries"),
            ("encoder_depth", "encoder_layers"), ("encoder_heads", "encoder_attention_heads"),
            ("encoder_hidden", "encoder_ffn_dim"), ("encoder_points", "encoder_n_points"),
            ("decoder_depth", "decoder_layers"), ("decoder_heads", "decoder_attention_heads"),
            ("decoder_hidden", "decoder_ffn_dim"), ("decoder_points", "decoder_n_points"),
        )
    }  # fmt: skip
    text = _made(SentenceConfig, **words.overrides)
    whole = _made(
        GroundingConfig,
        trunk=_trunk(tensors, config),
        text=text,
        activation=activation_of({"hidden_act": said["activation_function"]}),
        temperature=float(said["positional_embedding_temperature"]),
        eps=float(said["layer_norm_eps"]),
        length=min(GroundingConfig.length, text.length),
        **named,
    )
    fields = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
    plan = nearest_plan(("groundingdino-*",), fields, rules(whole, words.rules), BESIDE)
    changed = {
        key: dataclasses.asdict(value) if isinstance(value, SwinConfig | SentenceConfig) else value
        for key, value in plan.overrides.items()
    }
    return dataclasses.replace(plan, overrides=changed)


def rules(config: GroundingConfig, words: Sequence[Rule]) -> list[Rule]:
    """The lines of all parts; ``words`` are those of the text encoder by itself."""
    at = WORDS.replace(".", r"\.")
    found = [
        dataclasses.replace(r, pattern=at + r.pattern, target="words/" + r.target) for r in words
    ]
    found += _trunk_rules(config.trunk) + _block_rules() + _decoder_rules()
    for i in range(config.levels):
        source = rf"model\.input_proj_vision\.{i}\."
        found.append(Rule(source + r"0\.weight", f"level{i}/kernel", conv2d))
        found.append(Rule(source + r"0\.bias", f"level{i}/bias"))
        found += norm_rules(source + "1", f"level{i}_norm")
    return [
        *found,
        *dense_rules(r"model\.text_projection", "words_out"),
        Rule(r"model\.level_embed", "level_places"),
        Rule(r"model\.query_position_embeddings\.weight", "queries"),
        *dense_rules(r"model\.enc_output", "propose"),
        *norm_rules(r"model\.enc_output_norm", "propose_norm"),
        *_head(r"model\.encoder_output_bbox_embed", "propose_boxes"),
    ]


def _head(source: str, target: str) -> list[Rule]:
    return dense_rules(source + r"\.layers\.(?P<n>\d+)", target + "/layers_{n}")


def _trunk_rules(trunk: SwinConfig) -> list[Rule]:
    at = TRUNK.replace(".", r"\.")
    block = at + r"encoder\.layers\.(?P<stage>\d+)\.blocks\.(?P<n>\d+)\."
    ours, merge = "trunk/stage{stage}_{n}/", at + r"encoder\.layers\.(?P<stage>\d+)\.downsample\."
    biased = "qkv" if trunk.biased else ""
    names = ("query", "key", "value")
    return [
        Rule(at + r"embeddings\.patch_embeddings\.projection\.weight", "trunk/patch_embed/kernel",
             conv2d),
        Rule(at + r"embeddings\.patch_embeddings\.projection\.bias", "trunk/patch_embed/bias"),
        *norm_rules(at + r"embeddings\.norm", "trunk/norm"),
        *qkv_rules(block + r"attention\.self\.", ours + "attn/qkv", names, biased=biased),
        Rule(block + r"attention\.self\.relative_position_bias_table", ours + "attn/relative"),
        *dense_rules(block + r"attention\.output\.dense", ours + "attn/out"),
        *norm_rules(block + "layernorm_before", ours + "norm1"),
        *norm_rules(block + "layernorm_after", ours + "norm2"),
        *dense_rules(block + r"intermediate\.dense", ours + "mlp/up"),
        *dense_rules(block + r"output\.dense", ours + "mlp/down"),
        *norm_rules(merge + "norm", "trunk/merge{stage}/norm"),
        *dense_rules(merge + "reduction", "trunk/merge{stage}/reduce", bias=False),
        *(
            line
            for i in trunk.read
            for line in norm_rules(at + rf"hidden_states_norms\.stage{i + 1}", f"trunk/norm{i}")
        ),
    ]  # fmt: skip


def _attention(source: str, target: str) -> list[Rule]:
    names = (("query", "q"), ("key", "k"), ("value", "v"), ("out_proj", "out"))
    return [r for told, ours in names for r in dense_rules(source + told, target + ours)]


def _deformable(source: str, target: str) -> list[Rule]:
    names = (
        ("value_proj", "value"), ("output_proj", "out"), ("sampling_offsets", "offsets"),
        ("attention_weights", "weights"),
    )  # fmt: skip
    return [r for told, ours in names for r in dense_rules(source + told, target + ours)]


def _mlp(source: str, target: str) -> list[Rule]:
    return dense_rules(source + "fc1", target + "mlp/up") + dense_rules(
        source + "fc2", target + "mlp/down"
    )


def _block_rules() -> list[Rule]:
    layer, ours = r"model\.encoder\.layers\.(?P<n>\d+)\.", "blocks_{n}/"
    fuse, text, cells = (
        layer + part
        for part in (r"fusion_layer\.", r"text_enhancer_layer\.", r"deformable_layer\.")
    )
    both = (
        ("vision_proj", "cells"), ("text_proj", "text"), ("values_vision_proj", "cells_value"),
        ("values_text_proj", "text_value"), ("out_vision_proj", "cells_out"),
        ("out_text_proj", "text_out"),
    )  # fmt: skip
    return [
        *norm_rules(fuse + "layer_norm_vision", ours + "fusion/norm_cells"),
        *norm_rules(fuse + "layer_norm_text", ours + "fusion/norm_text"),
        *(r for a, b in both for r in dense_rules(fuse + r"attn\." + a, ours + "fusion/" + b)),
        Rule(fuse + "vision_param", ours + "fusion/cells_gain/gain"),
        Rule(fuse + "text_param", ours + "fusion/text_gain/gain"),
        *_attention(text + r"self_attn\.", ours + "text/attn/"),
        *_mlp(text, ours + "text/"),
        *norm_rules(text + "layer_norm_before", ours + "text/norm1"),
        *norm_rules(text + "layer_norm_after", ours + "text/norm2"),
        *_deformable(cells + r"self_attn\.", ours + "cells/attn/"),
        *_mlp(cells, ours + "cells/"),
        *norm_rules(cells + "self_attn_layer_norm", ours + "cells/norm1"),
        *norm_rules(cells + "final_layer_norm", ours + "cells/norm2"),
    ]


def _decoder_rules() -> list[Rule]:
    layer, ours = r"model\.decoder\.layers\.(?P<n>\d+)\.", "decoder/blocks_{n}/"
    return [
        *_attention(layer + r"self_attn\.", ours + "own/"),
        *_attention(layer + r"encoder_attn_text\.", ours + "text/"),
        *_deformable(layer + r"encoder_attn\.", ours + "cells/"),
        *_mlp(layer, ours),
        *norm_rules(layer + "self_attn_layer_norm", ours + "norm1"),
        *norm_rules(layer + "encoder_attn_text_layer_norm", ours + "norm2"),
        *norm_rules(layer + "encoder_attn_layer_norm", ours + "norm3"),
        *norm_rules(layer + "final_layer_norm", ours + "norm4"),
        *norm_rules(r"model\.decoder\.layer_norm", "decoder/norm"),
        *_head(r"model\.decoder\.reference_points_head", "decoder/place"),
        *_head(r"bbox_embed\.0", "decoder/mend"),
    ]


def _detect(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "grounding-dino") != "grounding-dino":
        return False
    return {"model.level_embed", WORDS + "embeddings.word_embeddings.weight"} <= keys


register_converter(
    Converter("grounding-dino-transformers", _detect, _plan, "Grounding DINO of transformers")
)

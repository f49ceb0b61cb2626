"""SAM 3's detector as transformers saves it: ``Sam3Model`` alone, or within ``Sam3VideoModel``,
which is how it is published. The tracker beside it is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import Settings, pair, settings
from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv2d,
    identity,
    linear,
    register_converter,
    squeeze0,
)
from ...encode.clip.convert import block_rules
from ...encode.dual.model import TextTowerConfig
from ...rules import activation_of, dense_rules, depth_of, nearest_plan, need, norm_rules
from ..rules import halves_first, transposed2x2
from ..window_vit import WindowVitConfig
from .config import Sam3Config

Tensors = Mapping[str, np.ndarray]
FAMILY = "SAM 3"
INSIDE = "detector_model."  # of the published files
VIT = {
    "hidden_size": 1024,
    "intermediate_size": 4736,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 1008,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "window_size": 24,
    "global_attn_indexes": [7, 15, 23, 31],
    "pretrain_image_size": 336,
}
TEXT = {
    "vocab_size": 49_408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 32,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
    "eos_token_id": 49_407,
}
PART = {"hidden_size": 256, "num_attention_heads": 8}
BLOCKS = {**PART, "num_layers": 6, "intermediate_size": 2048, "hidden_act": "relu"}
PARTS: dict[str, dict[str, Any]] = {
    "geometry_encoder_config": {**BLOCKS, "num_layers": 3, "roi_size": 7},
    "detr_encoder_config": BLOCKS,
    "detr_decoder_config": {**BLOCKS, "num_queries": 200},
    "mask_decoder_config": PART,
}
SCALES = [4.0, 2.0, 1.0, 0.5]
BESIDE = (
    r"vision_encoder\.neck\.fpn_layers\.3\..*",  # of the tracker
    r"text_encoder\.text_projection\.weight",  # the vector of a text, which nothing reads
    r"mask_decoder\.pixel_decoder\.(conv_layers|norms)\.2\..*",  # there are two finer maps
    r".*position_ids",
)
TEXTS, TRUNK = "text_encoder.text_model.", "vision_encoder.backbone."


def _inner(tensors: Tensors) -> Tensors:
    """The detector's tensors alone, by the names that they have in ``Sam3Model``."""
    if not any(key.startswith(INSIDE) for key in tensors):
        return tensors
    own = (key for key in tensors if key.startswith(INSIDE))
    return {key.removeprefix(INSIDE): tensors[key] for key in own}


def _section(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A config in another; what is left out there has its class's values."""
    given = config.get(key)
    if given is not None and not isinstance(given, Mapping):
        raise ConvertError(f"{FAMILY}: config.json has {key} {given!r}, not an object")
    return {"model_type": key, **(given or {})}


def _whole(config: Config) -> Mapping[str, Any]:
    """The detector's config. Raises ConvertError without a config of SAM 3."""
    said = settings(config, FAMILY, {"model_type": "sam3"})
    return _section(said, "detector_config") if said["model_type"] == "sam3_video" else said


def _trunk(tensors: Tensors, config: Mapping[str, Any]) -> Fields:
    vision = _section(config, "vision_config")
    if vision.get("scale_factors", SCALES) != SCALES:
        raise ConvertError(f"{FAMILY}: scale_factors {vision['scale_factors']}: {SCALES} is known")
    given = _section(vision, "backbone_config")
    said = settings(given, f"{FAMILY}, trunk", VIT)
    turned = settings(
        {"model_type": "rope", **(_section(given, "rope_parameters"))},
        f"{FAMILY}, trunk",
        {"rope_type": "axial", "rope_theta": 1e4},
    )
    if turned["rope_type"] != "axial":
        raise ConvertError(f"{FAMILY}: rope_type {turned['rope_type']!r}: only axial is known")
    if given.get("layer_scale_init_value") is not None:
        raise ConvertError(f"{FAMILY}: config.json has a layer_scale_init_value: not known")
    dim, _, patch, _ = need(
        tensors, TRUNK + "embeddings.patch_embeddings.projection.weight", FAMILY
    ).shape
    hidden = len(need(tensors, TRUNK + "layers.0.mlp.fc1.weight", FAMILY))
    depth = depth_of(tensors, TRUNK + "layers.")
    table = need(tensors, TRUNK + "embeddings.position_embeddings", FAMILY).shape[1]
    side = round(table**0.5)
    said.agree(
        hidden_size=dim, num_hidden_layers=depth, intermediate_size=hidden, patch_size=patch,
        pretrain_image_size=side * patch,
    )  # fmt: skip
    size = pair(said["image_size"])
    if size[0] != size[1]:
        raise ConvertError(f"{FAMILY}: image_size {size}: its pictures are square")
    return {
        "dim": dim,
        "depth": depth,
        "heads": said.heads(dim),
        "mlp_ratio": hidden / dim,
        "patch": patch,
        "image_size": size,
        "window": said["window_size"],
        "global_blocks": tuple(said["global_attn_indexes"]),
        "relative": False,
        "position_grid": (side, side),
        "activation": activation_of(said),
        "eps": float(said["layer_norm_eps"]),
        "rope_base": float(turned["rope_theta"]),
        "tiled": True,
        "pre_norm": True,
        "patch_bias": False,
    }


def _text(tensors: Tensors, config: Mapping[str, Any]) -> Fields:
    said = settings(_section(config, "text_config"), f"{FAMILY}, text", TEXT)
    vocabulary, dim = need(tensors, TEXTS + "embeddings.token_embedding.weight", FAMILY).shape
    length = len(need(tensors, TEXTS + "embeddings.position_embedding.weight", FAMILY))
    hidden = len(need(tensors, TEXTS + "encoder.layers.0.mlp.fc1.weight", FAMILY))
    depth = depth_of(tensors, TEXTS + "encoder.layers.")
    said.agree(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=depth,
        max_position_embeddings=length,
    )  # fmt: skip
    return {
        "vocabulary": vocabulary,
        "length": length,
        "dim": dim,
        "depth": depth,
        "heads": said.heads(dim),
        "mlp_ratio": hidden / dim,
        "activation": activation_of(said),
        "eps": float(said["layer_norm_eps"]),
        "end_token": said["eos_token_id"],
        "projection": said["projection_dim"],
    }


def _alike(parts: Mapping[str, Settings], key: str) -> Any:
    """What all parts say. Raises ConvertError where they differ."""
    found = {name: part[key] for name, part in parts.items() if key in part}
    if len(set(map(str, found.values()))) > 1:
        raise ConvertError(f"{FAMILY}: {key} differs from part to part: {found}")
    return next(iter(found.values()))


def _plan(tensors: Tensors, config: Config) -> Plan:
    whole, tensors = _whole(config), _inner(tensors)
    parts = {
        name: settings(_section(whole, name), f"{FAMILY}, {name}", default)
        for name, default in PARTS.items()
    }
    dim = need(tensors, "detr_decoder.query_embed.weight", FAMILY).shape[1]
    folders = ("geometry_encoder", "detr_encoder", "detr_decoder")
    depths = [depth_of(tensors, folder + ".layers.") for folder in folders]
    for folder, depth in zip(folders, depths, strict=True):
        hidden = len(need(tensors, folder + ".layers.0.mlp.fc1.weight", FAMILY))
        parts[folder + "_config"].agree(num_layers=depth, intermediate_size=hidden)
    decoder, shown = parts["detr_decoder_config"], parts["geometry_encoder_config"]
    decoder.agree(num_queries=len(tensors["detr_decoder.query_embed.weight"]), hidden_size=dim)
    shown.agree(
        roi_size=need(tensors, "geometry_encoder.boxes_pool_project.weight", FAMILY).shape[2:]
    )
    _alike(parts, "hidden_size")
    _alike(parts, "num_attention_heads")
    text = _text(tensors, whole)
    fields: Fields = {
        "trunk": _trunk(tensors, whole),
        "text": text,
        "dim": dim,
        "heads": decoder.heads(dim),
        "hidden": _alike(parts, "intermediate_size"),
        "activation": activation_of({"hidden_act": _alike(parts, "hidden_act")}),
        "exemplar_depth": depths[0],
        "encoder_depth": depths[1],
        "decoder_depth": depths[2],
        "roi": pair(shown["roi_size"])[0],
        "queries": decoder["num_queries"],
        "length": min(Sam3Config.length, text["length"]),
    }
    try:
        trunk = WindowVitConfig(**fields["trunk"])
        made = Sam3Config(**{**fields, "trunk": trunk, "text": TextTowerConfig(**text)})
    except (TypeError, ValueError) as error:
        raise ConvertError(f"{FAMILY}: config.json: {error}") from None
    plan = nearest_plan(
        ("sam3-*",), {key: getattr(made, key) for key in fields}, rules(made), BESIDE
    )
    changed = {
        key: dataclasses.asdict(value)
        if isinstance(value, WindowVitConfig | TextTowerConfig)
        else value
        for key, value in plan.overrides.items()
    }
    return dataclasses.replace(plan, overrides=changed, prepare=_inner)


def rules(config: Sam3Config) -> list[Rule]:
    """The lines of all parts."""
    at = TEXTS.replace(".", r"\.")
    words = [
        Rule(at + r"embeddings\.token_embedding\.weight", "tokens"),
        Rule(at + r"embeddings\.position_embedding\.weight", "positions"),
        *block_rules(at, config.text.depth),
        *norm_rules(at + "final_layer_norm", "norm"),
    ]
    return [
        *(dataclasses.replace(rule, target="words/" + rule.target) for rule in words),
        *dense_rules("text_projection", "words_out"),
        *_trunk_rules(config.trunk),
        *_level_rules(),
        *_exemplar_rules(),
        *_read_rules(r"detr_encoder\.layers\.(?P<n>\d+)\.", "blocks_{n}/"),
        *_decoder_rules(),
        *_mask_rules(),
    ]


def _conv(source: str, target: str) -> list[Rule]:
    return [Rule(source + r"\.weight", target + "/kernel", conv2d),
            Rule(source + r"\.bias", target + "/bias")]  # fmt: skip


def _dense_1x1(source: str, target: str) -> list[Rule]:
    flat = lambda x: linear(x.reshape(x.shape[:2]))
    return [Rule(source + r"\.weight", target + "/kernel", flat),
            Rule(source + r"\.bias", target + "/bias")]  # fmt: skip


def _attention(source: str, target: str) -> list[Rule]:
    named = (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out"))
    return [r for a, b in named for r in dense_rules(source + a, f"{target}/{b}")]


def _mlp(source: str, target: str) -> list[Rule]:
    return dense_rules(source + r"mlp\.fc1", target + "mlp/up") + dense_rules(
        source + r"mlp\.fc2", target + "mlp/down"
    )


def _head(source: str, target: str, depth: int) -> list[Rule]:
    return [
        r
        for i in range(depth)
        for r in dense_rules(rf"{source}\.layer{i + 1}", f"{target}/dense{i}")
    ]


def _read_rules(source: str, target: str) -> list[Rule]:
    """A :class:`~.blocks.ReadBlock`."""
    norms = [r for i in "123" for r in norm_rules(source + "layer_norm" + i, f"{target}norm{i}")]
    return [
        *_attention(source + r"self_attn\.", target + "own"),
        *_attention(source + r"cross_attn\.", target + "other"),
        *_mlp(source, target),
        *norms,
    ]


def _trunk_rules(trunk: WindowVitConfig) -> list[Rule]:
    at, ours = TRUNK.replace(".", r"\."), "pyramid/trunk/"
    layer, block = at + r"layers\.(?P<layer>\d+)\.", ours + "blocks/layer{slot}/"
    period = len(trunk.windows())
    stack: Fields = dict(stack=trunk.depth // period, period=period)
    order = halves_first(trunk.heads)
    turned: Callable[[np.ndarray], np.ndarray] = lambda x: linear(order(x))
    lines = [
        Rule(at + r"embeddings\.patch_embeddings\.projection\.weight",
             ours + "patch_embed/kernel", conv2d),
        Rule(at + r"embeddings\.position_embeddings", ours + "positions",
             lambda x: squeeze0(x).reshape(*trunk.position_grid, -1)),
        *norm_rules(at + "layer_norm", ours + "norm_pre"),
    ]  # fmt: skip
    for i, name in enumerate("qkv"):
        source, target = rf"{layer}attention\.{name}_proj\.", block + "attn/qkv/"
        kernel, bias = (linear, identity) if name == "v" else (turned, order)
        more: Fields = dict(part=(i, 3), **stack)
        lines.append(Rule(source + "weight", target + "kernel", kernel, **more))
        lines.append(Rule(source + "bias", target + "bias", bias, **more))
    both = (
        (r"attention\.o_proj", "attn/out"), (r"mlp\.fc1", "mlp/up"), (r"mlp\.fc2", "mlp/down"),
    )  # fmt: skip
    for a, b in both:
        lines.append(Rule(layer + a + r"\.weight", f"{block}{b}/kernel", linear, **stack))
        lines.append(Rule(layer + a + r"\.bias", f"{block}{b}/bias", **stack))
    for i in (1, 2):
        source = rf"{layer}layer_norm{i}\."
        lines.append(Rule(source + "weight", f"{block}norm{i}/scale", **stack))
        lines.append(Rule(source + "bias", f"{block}norm{i}/bias", **stack))
    return lines


def _level_rules() -> list[Rule]:
    lines = []
    for level in range(3):
        source, ours = rf"vision_encoder\.neck\.fpn_layers\.{level}\.", f"pyramid/level{level}/"
        for i in range(2 - level):  # an activation stands between the two
            double = rf"{source}scale_layers\.{2 * i}\."
            lines.append(Rule(double + "weight", f"{ours}double{i}/kernel", transposed2x2))
            lines.append(Rule(double + "bias", f"{ours}double{i}/bias"))
        lines += _conv(source + "proj1", ours + "conv1") + _conv(source + "proj2", ours + "conv2")
    return lines


def _exemplar_rules() -> list[Rule]:
    at = r"geometry_encoder\."
    pooled: Callable[[np.ndarray], np.ndarray] = lambda x: conv2d(x).reshape(-1, len(x))
    return [
        Rule(at + r"label_embed\.weight", "exemplars/kinds"),
        Rule(at + r"cls_embed\.weight", "exemplars/all", squeeze0),
        *norm_rules(at + "vision_layer_norm", "exemplars/cells_norm"),
        *dense_rules(at + "boxes_direct_project", "exemplars/corners"),
        Rule(at + r"boxes_pool_project\.weight", "exemplars/pooled/kernel", pooled),
        Rule(at + r"boxes_pool_project\.bias", "exemplars/pooled/bias"),
        *dense_rules(at + "boxes_pos_enc_project", "exemplars/places"),
        *dense_rules(at + "final_proj", "exemplars/project"),
        *norm_rules(at + "prompt_layer_norm", "exemplars/project_norm"),
        *_read_rules(at + r"layers\.(?P<n>\d+)\.", "exemplars/blocks_{n}/"),
        *norm_rules(at + "output_layer_norm", "exemplars/norm"),
    ]


def _decoder_rules() -> list[Rule]:
    at, score = r"detr_decoder\.", r"dot_product_scoring\."
    layer, ours = at + r"layers\.(?P<n>\d+)\.", "decoder/blocks_{n}/"
    norms = (
        ("self_attn", 1), ("text_cross_attn", 2), ("vision_cross_attn", 3), ("mlp", 4),
    )  # fmt: skip
    return [
        Rule(at + r"query_embed\.weight", "decoder/queries"),
        Rule(at + r"reference_points\.weight", "decoder/starts"),
        Rule(at + r"presence_token\.weight", "decoder/presence", squeeze0),
        *_attention(layer + r"self_attn\.", ours + "own"),
        *_attention(layer + r"text_cross_attn\.", ours + "prompt"),
        *_attention(layer + r"vision_cross_attn\.", ours + "cells"),
        *_mlp(layer, ours),
        *(
            r
            for name, i in norms
            for r in norm_rules(f"{layer}{name}_layer_norm", f"{ours}norm{i}")
        ),
        *norm_rules(at + "output_layer_norm", "decoder/norm"),
        *norm_rules(at + "presence_layer_norm", "decoder/presence_norm"),
        *_head(at + "ref_point_head", "decoder/place", 2),
        *_head(at + "box_head", "decoder/mend", 3),
        *_head(at + "presence_head", "decoder/present", 3),
        *_head(at + "box_rpb_embed_x", "decoder/near_x", 2),
        *_head(at + "box_rpb_embed_y", "decoder/near_y", 2),
        *_head(score + "text_mlp", "scores/mlp", 2),
        *norm_rules(score + "text_mlp_out_norm", "scores/norm"),
        *dense_rules(score + "text_proj", "scores/prompt"),
        *dense_rules(score + "query_proj", "scores/query"),
    ]


def _mask_rules() -> list[Rule]:
    at = r"mask_decoder\."
    lines = []
    for i in range(2):
        lines += _conv(rf"{at}pixel_decoder\.conv_layers\.{i}", f"masks/conv{i}")
        lines += norm_rules(rf"{at}pixel_decoder\.norms\.{i}", f"masks/norm{i}")
    return [
        *lines,
        *norm_rules(at + "prompt_cross_attn_norm", "masks/norm"),
        *_attention(at + r"prompt_cross_attn\.", "masks/prompt"),
        *_dense_1x1(at + "instance_projection", "masks/instances"),
        *_dense_1x1(at + "semantic_projection", "masks/whole"),
        *dense_rules(at + r"mask_embedder\.layers\.(?P<n>\d+)", "masks/query/dense{n}"),
    ]


def _detect(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "sam3") not in ("sam3", "sam3_video"):
        return False
    key = "detr_decoder.presence_token.weight"
    return key in keys or INSIDE + key in keys


register_converter(
    Converter("sam3-transformers", _detect, _plan, "SAM 3's detector, as transformers saves it")
)

"""Converter tables for SAM 2 and 2.1 on video in transformers' layout.

The image part of a file is read by the tables of the image models; here are the memory modules.
Rotary embeddings of these files turn channels 2i and 2i + 1; ours turn i and i + Dh / 2, so the
channels of queries and keys are put in that order once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    conv2d,
    linear,
    register_converter,
)
from ..checkpoint import depth_of, need
from ..rules import conv, dense, flat, halves_first, head, norm, weighted
from ..sam2.convert import hiera_overrides, sam2_overrides, sam2_rules, sam2_size

Tensors = Mapping[str, np.ndarray]


def dense_1x1(x: np.ndarray) -> np.ndarray:
    """1 x 1 convolution weight [O, I, 1, 1] -> Dense kernel [I, O]."""
    return linear(x.reshape(x.shape[:2]))


def table(x: np.ndarray) -> np.ndarray:
    """[N, 1, ..., D] -> [N, D]."""
    return x.reshape(x.shape[0], -1)


def attention_rules(
    source: str, target: str, heads: int, out: str = "o_proj", *, stack: int
) -> list[Rule]:
    """An attention with rotary embedding: queries and keys in our order of channels."""
    order = halves_first(heads)
    rules = []
    for name in "qk":
        path = f"{target}/{name}"
        rules.append(
            Rule(
                rf"{source}\.{name}_proj\.weight",
                path + "/kernel",
                lambda x: linear(order(x)),
                stack=stack,
            )
        )
        rules.append(Rule(rf"{source}\.{name}_proj\.bias", path + "/bias", order, stack=stack))
    rules += dense(source + r"\.v_proj", target + "/v", stack=stack)
    return rules + dense(rf"{source}\.{out}", target + "/out", stack=stack)


def memory_attention_rules(
    depth: int,
    heads: int,
    *,
    mlp: tuple[str, str] = ("linear1", "linear2"),
    names: str = "layer_norm",
    out: str = "o_proj",
    last: str = "layer_norm",
) -> list[Rule]:
    """The memory attention; keyword arguments name its parts in other layouts."""
    layer, ours = r"memory_attention\.layers\.(?P<layer>\d+)\.", "read/layers/"
    stack = {"stack": depth}
    rules = [
        *attention_rules(layer + "self_attn", ours + "frame", heads, out, stack=depth),
        *attention_rules(layer + "cross_attn_image", ours + "memory", heads, out, stack=depth),
        *norm(rf"memory_attention\.{last}", "read/norm"),
    ]
    for i in (1, 2, 3):
        rules += norm(f"{layer}{names}{i}", f"{ours}norm{i}", **stack)
    for theirs, mine in zip(mlp, ("up", "down"), strict=False):
        rules += dense(layer + theirs.replace(".", r"\."), f"{ours}mlp/{mine}", **stack)
    return rules


def memory_encoder_rules(tensors: Tensors) -> list[Rule]:
    """The memory encoder, transformers' layout."""
    source = r"memory_encoder\."
    block, ours = source + r"memory_fuser\.layers\.(?P<n>\d+)\.", "write/block{n}/"
    down = source + r"mask_downsampler\.layers\.(?P<n>\d+)\."
    return [
        *conv(down + "conv", "write/down{n}"),
        *norm(down + "layer_norm", "write/down_norm{n}"),
        *weighted(source + r"mask_downsampler\.final_conv", "write/mask_out", dense_1x1),
        *weighted(source + "feature_projection", "write/features", dense_1x1),
        *weighted(source + "projection", "write/project", dense_1x1),
        *weighted(block + "depthwise_conv", ours + "spatial", conv2d),
        *norm(block + "layer_norm", ours + "norm"),
        *dense(block + "pointwise_conv1", ours + "mlp/up"),
        *dense(block + "pointwise_conv2", ours + "mlp/down"),
        Rule(block + "scale", ours + "gain"),
    ]


def tracker_rules(tensors: Tensors) -> list[Rule]:
    """Pointers, times and the vectors that stand for something missing."""
    rules = [
        *head("object_pointer_proj", "pointer", 3, "ends"),
        *conv("mask_downsample", "mask_pointer"),
        Rule("memory_temporal_positional_encoding", "times", table),
        Rule("no_object_pointer", "no_pointer", flat),
    ]
    if "occlusion_spatial_embedding_parameter" in tensors:
        rules.append(Rule("occlusion_spatial_embedding_parameter", "absent", flat))
    if "temporal_positional_encoding_projection_layer.weight" in tensors:
        rules += dense("temporal_positional_encoding_projection_layer", "pointer_time")
    return rules


TRACKER = {
    "num_maskmem": 7,
    "max_object_pointers_in_encoder": 16,
    "memory_attention_num_attention_heads": 1,
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "max_cond_frame_num": -1,
}


def _rope_base(given: Mapping[str, Any]) -> float:
    # transformers 4 wrote the first form, 5 writes the second; its class has 10,000
    told = given.get("memory_attention_rope_theta")
    return float(told or (given.get("rope_parameters") or {}).get("rope_theta", 1e4))


def tracker_overrides(tensors: Tensors, config: Config) -> Fields:
    """Fields of a :class:`~streamzoo.zoo.segment.tracker.TrackerConfig` but the trunk's.

    Raises ConvertError for what the file asks of us and we do not have.
    """
    given = settings(config, "tracker", TRACKER)
    for name, want in (
        ("memory_attention_mlp_hidden_act", "relu"),
        ("memory_attention_feed_forward_hidden_act", "relu"),
        ("mask_downsampler_hidden_act", "gelu"),
        ("memory_fuser_hidden_act", "gelu"),
        ("mask_downsampler_total_stride", 16),
        ("mask_downsampler_kernel_size", 3),
        ("mask_downsampler_stride", 2),
    ):
        if given.get(name, want) != want:
            raise ConvertError(f"{name} {given[name]!r}: only {want!r} is supported")
    layers = "memory_attention.layers."
    up = next(
        (n for n in ("linear1", "mlp.up_proj") if f"{layers}0.{n}.weight" in tensors), "linear1"
    )
    inner, width = need(tensors, layers + "0.self_attn.q_proj.weight").shape
    times = need(tensors, "memory_temporal_positional_encoding")
    given.agree(
        num_maskmem=times.shape[0],
        memory_encoder_output_channels=times.shape[-1],
        memory_attention_num_layers=depth_of(tensors, layers),
        memory_fuser_num_layers=depth_of(tensors, "memory_encoder.memory_fuser.layers."),
        enable_occlusion_spatial_embedding="occlusion_spatial_embedding_parameter" in tensors,
        enable_temporal_pos_encoding_for_object_pointers=(
            "temporal_positional_encoding_projection_layer.weight" in tensors
        ),
    )
    return {
        **sam2_overrides(tensors, config),
        "memories": times.shape[0],
        "memory_dim": times.shape[-1],
        "max_pointers": given["max_object_pointers_in_encoder"],
        "depth": depth_of(tensors, layers),
        "heads": given.heads(inner, "memory_attention_num_attention_heads"),
        "inner": 0 if inner == width else inner,
        "hidden": need(tensors, f"{layers}0.{up}.weight").shape[0],
        "rope_base": _rope_base(given),
        "memory_depth": depth_of(tensors, "memory_encoder.memory_fuser.layers."),
        "memory_hidden": need(
            tensors, "memory_encoder.memory_fuser.layers.0.pointwise_conv1.weight"
        ).shape[0],
        "mask_scale": given["sigmoid_scale_for_mem_enc"],
        "mask_bias": given["sigmoid_bias_for_mem_enc"],
        "absent_memory": "occlusion_spatial_embedding_parameter" in tensors,
        "pointer_times": "temporal_positional_encoding_projection_layer.weight" in tensors,
        "multimask": given["multimask_output_in_sam"],
        "multimask_tracking": given["multimask_output_for_tracking"],
        "min_points": given["multimask_min_pt_num"],
        "max_points": given["multimask_max_pt_num"],
        **_pinned(given),
    }


def _pinned(given: Mapping[str, Any]) -> Fields:
    limit = given["max_cond_frame_num"]
    return {"prompted_slots": limit} if limit > 0 else {}


def memory_rules(tensors: Tensors, fields: Mapping[str, Any], mlp: tuple[str, str]) -> list[Rule]:
    return [
        *memory_attention_rules(fields["depth"], fields["heads"], mlp=mlp),
        *memory_encoder_rules(tensors),
        *tracker_rules(tensors),
    ]


IGNORED = ("no_memory_positional_encoding",)  # the reference has it and never reads it


def _plan_sam2(tensors: Tensors, config: Config) -> Plan:
    trunk = hiera_overrides(tensors, config)
    fields = {"trunk": trunk, **tracker_overrides(tensors, config)}
    rules, ignore = sam2_rules(tensors)
    rules = [*rules, *memory_rules(tensors, fields, ("linear1", "linear2"))]
    version = "2.1" if fields["absent_memory"] else "2"
    name = f"sam{version}video-{sam2_size(trunk)}"
    return Plan(name, rules, fields, ignore=(*ignore, *IGNORED))


def is_of(model_type: str, key: str) -> Callable[[frozenset[str], Config], bool]:
    def detect(keys: frozenset[str], config: Config) -> bool:
        if config and config.get("model_type", model_type) != model_type:
            return False
        return {key, "memory_attention.layers.0.self_attn.q_proj.weight"} <= keys

    return detect


register_converter(
    Converter(
        "sam2-video-transformers",
        is_of("sam2_video", "vision_encoder.backbone.blocks.0.attn.qkv.weight"),
        _plan_sam2,
        "SAM 2 and 2.1 on video, as transformers saves them",
    )
)

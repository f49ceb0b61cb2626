"""Converter table of SAM 2 on images in transformers' layout.

It reads ``Sam2Model``, and the image part of a ``Sam2VideoModel`` file where it is named explicitly
(the memory modules are left out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import pair, settings
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ..checkpoint import (
    activation,
    decoder_overrides,
    decoder_sizes,
    depth_of,
    need,
    prompt_settings,
)
from ..rules import (
    SAM2,
    decoder_rules,
    flat,
    hiera_rules,
    one_frequencies,
    prompt_rules,
    pyramid_rules,
)
from ..sizes import HIERA_SIZES

Tensors = Mapping[str, np.ndarray]

# What only the video model has, beside the same image model.
MEMORY_KEYS = (
    r"memory_.*",
    r"mask_downsample\..*",
    r"object_pointer_proj\..*",
    r"temporal_positional_encoding_projection_layer\..*",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)

HIERA = {
    "embed_dim_per_stage": [96, 192, 384, 768],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "blocks_per_stage": [1, 2, 7, 2],
    "window_size_per_stage": [8, 4, 14, 7],
    "global_attention_blocks": [5, 7, 9],
    "num_query_pool_stages": 3,
    "query_stride": [2, 2],
    "window_positional_embedding_background_size": [7, 7],
    "mlp_ratio": 4.0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
STABILITY = {
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
    "dynamic_multimask_via_stability": True,
}


def hiera_overrides(tensors: Tensors, config: Config) -> Fields:
    """Fields of a :class:`HieraConfig`, from a config's ``vision_config``.

    Raises ConvertError where the weights do not agree with it."""
    stem = "vision_encoder.backbone."
    dim = need(tensors, stem + "patch_embed.projection.weight").shape[0]
    depth = depth_of(tensors, stem + "blocks.")
    vision = settings(config, "SAM 2's trunk", {}, "vision_config")
    told = {"model_type": "sam2_vision_model", "backbone_config": {}} | vision
    given = settings(told, "Hiera", HIERA, "backbone_config")
    if list(given["query_stride"]) != [2, 2]:
        raise ConvertError(f"query_stride {given['query_stride']}: only [2, 2] is supported")
    widths, blocks = given["embed_dim_per_stage"], given["blocks_per_stage"]
    heads, windows = given["num_attention_heads_per_stage"], given["window_size_per_stage"]
    if len({len(x) for x in (widths, blocks, heads, windows)}) > 1 or any(
        h < 1 or w % h for w, h in zip(widths, heads, strict=False)
    ):
        raise ConvertError(
            f"Hiera: config.json has stages of widths {widths}, blocks {blocks}, heads {heads} and"
            f" windows {windows}, which do not go together"
        )
    if (widths[0], sum(blocks)) != (dim, depth):
        raise ConvertError(
            f"Hiera: config.json says {sum(blocks)} blocks, the first {widths[0]} wide, and the"
            f" weights have {depth}, the first {dim} wide: the weights are incomplete, or the"
            " config is of another model; take both files from one repository"
        )
    return {
        "dims": tuple(given["embed_dim_per_stage"]),
        "heads": tuple(given["num_attention_heads_per_stage"]),
        "blocks": tuple(given["blocks_per_stage"]),
        "windows": tuple(given["window_size_per_stage"]),
        "global_blocks": tuple(given["global_attention_blocks"]),
        "pooled_stages": given["num_query_pool_stages"],
        "background": tuple(given["window_positional_embedding_background_size"]),
        "mlp_ratio": given["mlp_ratio"],
        "activation": activation(given),
        "eps": given["layer_norm_eps"],
    }


def sam2_overrides(tensors: Tensors, config: Config) -> Fields:
    """Fields of a :class:`~streamzoo.zoo.segment.segmenter.Sam2Config` but the trunk's, for the
    image and the video files alike."""
    vision = settings(config, "SAM 2's trunk", {"fpn_top_down_levels": [2, 3]}, "vision_config")
    prompt = prompt_settings(config)
    given = settings(config, "mask decoder", STABILITY, "mask_decoder_config")
    stability = (
        given["dynamic_multimask_stability_delta"],
        given["dynamic_multimask_stability_thresh"],
    )
    return {
        "image_size": pair(prompt["image_size"]),
        "decoder": decoder_overrides(tensors, config),
        "top_down": tuple(vision["fpn_top_down_levels"]),
        "mask_channels": need(tensors, "prompt_encoder.mask_embed.conv2.weight").shape[0],
        "prompt_eps": prompt["layer_norm_eps"],
        "stability": stability if given["dynamic_multimask_via_stability"] else None,
    }


def sam2_rules(tensors: Tensors, trunk: list[Rule] | None = None) -> tuple[list[Rule], list[str]]:
    """The table of the image part of a SAM 2 file (image or video) and the keys it leaves out.

    trunk: rules of another trunk in Hiera's place
    """
    key, others = one_frequencies(
        tensors,
        (
            "prompt_encoder.shared_embedding.positional_embedding",
            "shared_image_embedding.positional_embedding",
        ),
    )
    shape = decoder_sizes(tensors)
    rules = [
        *(hiera_rules() if trunk is None else trunk),
        *pyramid_rules(),
        *prompt_rules(SAM2, frequencies=key),
        *decoder_rules(SAM2, masks=shape["multimasks"] + 1, iou_depth=shape["iou_depth"]),
        Rule("no_memory_embedding", "no_memory", flat),
    ]
    return rules, list(others)


def sam2_size(trunk: Mapping[str, Any]) -> str:
    """The name of a Hiera's size, ``t`` where it has none (the overrides tell)."""
    shape = (trunk["dims"][0], sum(trunk["blocks"]))
    names = {(size.dims[0], sum(size.blocks)): name for name, size in HIERA_SIZES.items()}
    return names.get(shape, "t")


def _plan_sam2(tensors: Tensors, config: Config) -> Plan:
    trunk = hiera_overrides(tensors, config)
    rules, ignore = sam2_rules(tensors)
    # The image models of 2 and 2.1 are one; a file of the video model tells which it is.
    version = "2.1" if "occlusion_spatial_embedding_parameter" in tensors else "2"
    overrides = {"trunk": trunk, **sam2_overrides(tensors, config)}
    model = f"sam{version}-{sam2_size(trunk)}"
    return Plan(model, rules, overrides, ignore=(*ignore, *MEMORY_KEYS))


def _is_sam2(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "sam2") != "sam2":
        return False
    memory = any(key.startswith("memory_attention.") for key in keys)
    return "vision_encoder.backbone.blocks.0.attn.qkv.weight" in keys and not memory


register_converter(
    Converter(
        "sam2-transformers",
        _is_sam2,
        _plan_sam2,
        "SAM 2 and 2.1 on images, as transformers saves them; of a video file its image part",
    )
)

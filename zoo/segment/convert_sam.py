"""Converter tables for SAM and SAM 2 image models in transformers' layout.

``sam-transformers`` reads ``SamModel``; ``sam2-transformers`` reads ``Sam2Model``, and the image
part of a ``Sam2VideoModel`` file where it is named explicitly (the memory modules are left out).
What the weights show is read from their shapes, so a published size needs no config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..convert import Converter, ConvertError, Plan, Rule, register_converter, squeeze0
from .rules import (
    SAM,
    SAM2,
    conv,
    decoder_rules,
    dense,
    flat,
    hiera_rules,
    norm,
    one_frequencies,
    prompt_rules,
    pyramid_rules,
)
from .sizes import HIERA_SIZES, SAM_SIZES

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "relu": "relu"}  # fmt: skip

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


def need(tensors: Tensors, key: str) -> np.ndarray:
    """A tensor that the sizes are read from. Raises ConvertError if it is missing."""
    if key not in tensors:
        raise ConvertError(f"a segment-anything checkpoint without {key}: is the file complete?")
    return tensors[key]


def section(config: Config, name: str) -> dict[str, Any]:
    """A part of a config.json, empty where there is none."""
    return dict((config or {}).get(name) or {})


def activation(config: Mapping[str, Any], default: str) -> str:
    """Our name of ``hidden_act``. Raises ConvertError for one that is not supported."""
    name = config.get("hidden_act", default)
    if name not in ACTIVATIONS:
        raise ConvertError(f"hidden_act {name!r}: not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def depth_of(tensors: Tensors, prefix: str) -> int:
    """Number of blocks, from keys such as prefix + "11.…" (a gap is reported later)."""
    found = {k[len(prefix) :].split(".", 1)[0] for k in tensors if k.startswith(prefix)}
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)


def decoder_overrides(tensors: Tensors, config: Config, **fields: Any) -> dict[str, Any]:
    """Fields of a :class:`DecoderConfig` that files in transformers' layout show."""
    given = section(config, "mask_decoder_config")
    tokens = need(tensors, "mask_decoder.mask_tokens.weight")
    iou = "mask_decoder.iou_prediction_head."
    inner = need(tensors, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")
    mlp = "mask_decoder.transformer.layers.0.mlp."
    up = next((k for k in (mlp + "lin1.weight", mlp + "proj_in.weight") if k in tensors), mlp)
    return {
        "dim": tokens.shape[1],
        "heads": given.get("num_attention_heads", 8),
        "depth": depth_of(tensors, "mask_decoder.transformer.layers."),
        "hidden": need(tensors, up).shape[0],
        "downsample": tokens.shape[1] // inner.shape[0],
        "multimasks": tokens.shape[0] - 1,
        "iou_depth": 2 + depth_of(tensors, iou + "layers."),
        "iou_hidden": need(tensors, iou + "proj_in.weight").shape[0],
        **fields,
    }


# --- SAM -------------------------------------------------------------------------------------


def vit_rules(
    depth: int,
    period: int,
    relative: bool,
    source: str = r"vision_encoder\.",
    target: str = "image_encoder/",
) -> list[Rule]:
    """SAM's image encoder."""
    layer = source + r"layers\.(?P<layer>\d+)\."
    block = target + "trunk/blocks/layer{slot}/"
    stack: dict[str, Any] = dict(stack=depth // period, period=period)
    rules = [
        *conv(source + r"patch_embed\.projection", target + "trunk/patch_embed"),
        Rule(source + "pos_embed", target + "trunk/positions", squeeze0),
        *norm(layer + "layer_norm1", block + "norm1", **stack),
        *norm(layer + "layer_norm2", block + "norm2", **stack),
        *dense(layer + r"attn\.qkv", block + "attn/qkv", **stack),
        *dense(layer + r"attn\.proj", block + "attn/out", **stack),
        *dense(layer + r"mlp\.lin1", block + "mlp/up", **stack),
        *dense(layer + r"mlp\.lin2", block + "mlp/down", **stack),
    ]
    if relative:
        for name, axis in (("rows", "h"), ("cols", "w")):
            path = f"{block}attn/relative_{name}"
            rules.append(Rule(rf"{layer}attn\.rel_pos_{axis}", path, **stack))
    for i in (1, 2):
        rules += conv(rf"{source}neck\.conv{i}", f"{target}neck/conv{i}", bias=False)
        rules += norm(rf"{source}neck\.layer_norm{i}", f"{target}neck/norm{i}")
    return rules


def _vit(tensors: Tensors, config: Config) -> dict[str, Any]:
    """Fields of the trunk's config."""
    given = section(config, "vision_config")
    dim, _, patch, _ = need(tensors, "vision_encoder.patch_embed.projection.weight").shape
    grid = need(tensors, "vision_encoder.pos_embed").shape[1:3]
    depth = depth_of(tensors, "vision_encoder.layers.")
    tables = [tensors.get(f"vision_encoder.layers.{i}.attn.rel_pos_h") for i in range(depth)]
    known = {size.dim: size for size in SAM_SIZES.values()}.get(dim)
    if all(table is not None for table in tables):
        sides = [(table.shape[0] + 1) // 2 for table in tables if table is not None]
        heads = dim // tables[0].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
        window = min(sides)
        globally = [i for i, side in enumerate(sides) if side == grid[0]]
    elif given or known is not None:  # without relative positions the weights do not tell
        heads = given.get("num_attention_heads") or (known and known.heads)
        window = given.get("window_size", 14)
        globally = given.get("global_attn_indexes") or (known and known.global_blocks) or ()
    else:
        raise ConvertError(
            f"the weights of width {dim} do not tell heads and windows; put the checkpoint's"
            " config.json beside it"
        )
    return {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": need(tensors, "vision_encoder.layers.0.mlp.lin1.weight").shape[0] / dim,
        "patch": patch,
        "image_size": (grid[0] * patch, grid[1] * patch),
        "window": window,
        "global_blocks": tuple(globally),
        "relative": tables[0] is not None,
        "position_grid": tuple(grid),
        "activation": activation(given, "gelu"),
        "eps": given.get("layer_norm_eps", 1e-6),
    }


def _plan_sam(tensors: Tensors, config: Config) -> Plan:
    from .window_vit import WindowVitConfig

    trunk = _vit(tensors, config)
    given = section(config, "mask_decoder_config")
    eps = given.get("layer_norm_eps", 1e-6)
    decoder = decoder_overrides(tensors, config, activation=activation(given, "relu"), eps=eps)
    key, others = one_frequencies(
        tensors,
        (
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.shared_embedding.positional_embedding",
        ),
    )
    overrides = {
        "trunk": trunk,
        "decoder": decoder,
        "mask_channels": need(tensors, "prompt_encoder.mask_embed.conv2.weight").shape[0],
        "prompt_eps": section(config, "prompt_encoder_config").get("layer_norm_eps", 1e-6),
    }
    period = len(WindowVitConfig(**trunk).windows())
    rules = [
        *vit_rules(trunk["depth"], period, trunk["relative"]),
        *prompt_rules(SAM, frequencies=key),
        *decoder_rules(
            SAM,
            masks=decoder["multimasks"] + 1,
            iou_depth=decoder["iou_depth"],
            object_score=False,
            skips=False,
        ),
    ]
    shape = (trunk["dim"], trunk["depth"])
    sizes = {(size.dim, size.depth): name for name, size in SAM_SIZES.items()}
    return Plan(f"sam-{sizes.get(shape, 'b16')}", rules, overrides, ignore=others)


def _is_sam(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "sam") != "sam":
        return False
    return {"vision_encoder.layers.0.attn.qkv.weight", "mask_decoder.mask_tokens.weight"} <= keys


# --- SAM 2 -----------------------------------------------------------------------------------


def hiera_overrides(tensors: Tensors, config: Config) -> dict[str, Any]:
    """Fields of a :class:`HieraConfig`, from a config's ``vision_config`` or, for a published
    size, from the weights alone. Raises ConvertError for another size without a config."""
    stem = "vision_encoder.backbone."
    dim = need(tensors, stem + "patch_embed.projection.weight").shape[0]
    depth = depth_of(tensors, stem + "blocks.")
    given = section(section(config, "vision_config"), "backbone_config")
    if not given:
        for size in HIERA_SIZES.values():
            if (size.dims[0], sum(size.blocks)) == (dim, depth):
                return vars(size).copy()
        raise ConvertError(
            f"a Hiera of width {dim} and {depth} blocks is no published size, and its weights do"
            " not tell its windows; put the checkpoint's config.json beside it"
        )
    if list(given.get("query_stride", (2, 2))) != [2, 2]:
        raise ConvertError(f"query_stride {given['query_stride']}: only [2, 2] is supported")
    return {
        "dims": tuple(given["embed_dim_per_stage"]),
        "heads": tuple(given["num_attention_heads_per_stage"]),
        "blocks": tuple(given["blocks_per_stage"]),
        "windows": tuple(given["window_size_per_stage"]),
        "global_blocks": tuple(given["global_attention_blocks"]),
        "pooled_stages": given.get("num_query_pool_stages", 3),
        "background": tuple(given["window_positional_embedding_background_size"]),
        "mlp_ratio": given.get("mlp_ratio", 4.0),
        "activation": activation(given, "gelu"),
        "eps": given.get("layer_norm_eps", 1e-6),
    }


def sam2_overrides(tensors: Tensors, config: Config) -> dict[str, Any]:
    """Fields of a :class:`~streamzoo.zoo.segment.segmenter.Sam2Config` but the trunk's, for the
    image and the video files alike."""
    vision = section(config, "vision_config")
    prompt = section(config, "prompt_encoder_config")
    given = section(config, "mask_decoder_config")
    side = prompt.get("image_size", 1024)
    stability = (
        given.get("dynamic_multimask_stability_delta", 0.05),
        given.get("dynamic_multimask_stability_thresh", 0.98),
    )
    return {
        "image_size": (side, side) if isinstance(side, int) else tuple(side),
        "decoder": decoder_overrides(tensors, config),
        "top_down": tuple(vision.get("fpn_top_down_levels", (2, 3))),
        "mask_channels": need(tensors, "prompt_encoder.mask_embed.conv2.weight").shape[0],
        "prompt_eps": prompt.get("layer_norm_eps", 1e-6),
        "stability": stability if given.get("dynamic_multimask_via_stability", True) else None,
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
    shape = decoder_overrides(tensors, None)
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
        "sam-transformers",
        _is_sam,
        _plan_sam,
        "SAM as transformers saves it, sizes B, L and H",
    )
)
register_converter(
    Converter(
        "sam2-transformers",
        _is_sam2,
        _plan_sam2,
        "SAM 2 and 2.1 on images, as transformers saves them; of a video file its image part",
    )
)

"""Converter tables of the parts that all segment-anything checkpoints share.

A source prefix is a regular expression ("" or r"sam\\."), a target prefix ends in "/". A model's
table is the sum of its parts' tables, so the image part of a video checkpoint is read by the same
lines as an image checkpoint.

Three layouts name the same tensors differently (:class:`Layout`): ``SAM`` and ``SAM2`` are what
transformers writes, ``META`` is that of the original repositories (SAM, SAM 2, EfficientTAM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..convert import ConvertError, Rule, Transform, conv2d, identity, linear

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How one family of files names the tensors of the prompt encoder and the mask decoder.

    attn_out:  output projection of an attention
    norm:      norms of a transformer layer, numbered from 1
    norm_last: norm after the last attention
    mlp:       the two dense layers of a transformer layer
    upscale:   first transposed convolution, norm, second one
    head:      how the dense layers of a head are named: "ends" (proj_in, layers.N, proj_out),
               "layers" (layers.N) or "fc" (layers.N.0, fc)
    prompt:    names in the prompt encoder: frequencies, no point, no mask, the five parts of the
               mask branch
    points:    "table" (one tensor of the four label vectors), "list" (one tensor each) or "" (the
               caller has rules of its own)
    """

    attn_out: str = "out_proj"
    norm: str = "layer_norm"
    norm_last: str = "layer_norm_final_attn"
    mlp: tuple[str, str] = ("mlp.lin1", "mlp.lin2")
    upscale: tuple[str, str, str] = ("upscale_conv1", "upscale_layer_norm", "upscale_conv2")
    head: Literal["ends", "layers", "fc"] = "ends"
    prompt: tuple[str, ...] = (
        "shared_embedding.positional_embedding",
        "not_a_point_embed.weight",
        "no_mask_embed.weight",
        "mask_embed.conv1",
        "mask_embed.layer_norm1",
        "mask_embed.conv2",
        "mask_embed.layer_norm2",
        "mask_embed.conv3",
    )
    point: str = "point_embed"
    points: Literal["table", "list", ""] = "list"


SAM = Layout()
SAM2 = Layout(attn_out="o_proj", mlp=("mlp.proj_in", "mlp.proj_out"), points="table")
META = Layout(
    norm="norm",
    norm_last="norm_final_attn",
    mlp=("mlp.layers.0", "mlp.layers.1"),
    upscale=("output_upscaling.0", "output_upscaling.1", "output_upscaling.3"),
    head="layers",
    prompt=(
        "pe_layer.positional_encoding_gaussian_matrix",
        "not_a_point_embed.weight",
        "no_mask_embed.weight",
        "mask_downscaling.0",
        "mask_downscaling.1",
        "mask_downscaling.3",
        "mask_downscaling.4",
        "mask_downscaling.6",
    ),
    point="point_embeddings",
)


# --- transforms ------------------------------------------------------------------------------


def transposed2x2(x: np.ndarray) -> np.ndarray:
    """torch.nn.ConvTranspose2d weight [I, O, 2, 2] -> kernel [I, 2, 2, O]."""
    return x.transpose(0, 2, 3, 1)


def halves_first(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """[O, ...] of ``heads`` heads whose channels are pairs -> first members, then second ones."""

    def apply(x: np.ndarray) -> np.ndarray:
        split = x.reshape(heads, -1, 2, *x.shape[1:])
        return split.swapaxes(1, 2).reshape(x.shape)

    return apply


def map_of_channels(x: np.ndarray) -> np.ndarray:
    """[1, C, h, w] -> [h, w, C]."""
    return x.squeeze(0).transpose(1, 2, 0)


def flat(x: np.ndarray) -> np.ndarray:
    """A vector with any number of axes of one around it -> [D]."""
    if x.size != max(x.shape):
        raise ValueError(f"{x.shape} is no vector")
    return x.reshape(-1)


# --- lines -----------------------------------------------------------------------------------


def escape(name: str) -> str:
    """A literal key as a regular expression."""
    return name.replace(".", r"\.")


def weighted(
    source: str, target: str, kernel: Transform, *, bias: bool = True, **depth: Any
) -> list[Rule]:
    """A layer with ``weight`` (to ``kernel``) and ``bias``; ``depth`` as in :class:`Rule`."""
    rules = [Rule(source + r"\.weight", target + "/kernel", kernel, **depth)]
    if bias:
        rules.append(Rule(source + r"\.bias", target + "/bias", **depth))
    return rules


def dense(source: str, target: str, **depth: Any) -> list[Rule]:
    """torch.nn.Linear."""
    return weighted(source, target, linear, **depth)


def conv(source: str, target: str, bias: bool = True) -> list[Rule]:
    """torch.nn.Conv2d."""
    return weighted(source, target, conv2d, bias=bias)


def norm(source: str, target: str, **depth: Any) -> list[Rule]:
    """torch.nn.LayerNorm or GroupNorm."""
    return [
        Rule(source + r"\.weight", target + "/scale", **depth),
        Rule(source + r"\.bias", target + "/bias", **depth),
    ]


def head(source: str, target: str, layers: int, style: str, **depth: Any) -> list[Rule]:
    """The dense layers of an :class:`~streamzoo.zoo.segment.decoder.MlpHead`."""
    rules = []
    for i in range(layers):
        if style == "layers":
            name = f"layers.{i}"
        elif style == "fc":
            name = "fc" if i == layers - 1 else f"layers.{i}.0"
        else:
            name = {0: "proj_in", layers - 1: "proj_out"}.get(i, f"layers.{i - 1}")
        rules += dense(source + r"\." + escape(name), f"{target}/dense{i}", **depth)
    return rules


# --- parts -----------------------------------------------------------------------------------


def prompt_rules(
    layout: Layout,
    source: str = r"prompt_encoder\.",
    target: str = "prompt_encoder/",
    *,
    frequencies: str | None = None,
    masks: bool = True,
) -> list[Rule]:
    """The prompt encoder.

    frequencies: whole key (regular expression) of the Fourier frequencies, where they are not
      inside the prompt encoder
    masks:       whether the file has a mask branch
    """
    names = [source + escape(name) for name in layout.prompt]
    rules = [
        Rule(frequencies or names[0], target + "positions/frequencies"),
        Rule(names[1], target + "no_point", flat),
    ]
    point = source + escape(layout.point)
    if layout.points == "table":
        rules.append(Rule(point + r"\.weight", target + "labels"))
    elif layout.points == "list":
        for i in range(4):
            name = rf"{point}\.{i}\.weight"
            rules.append(Rule(name, target + "labels", identity, part=(i, 4), axis=0))
    if masks:
        rules.append(Rule(names[2], target + "no_mask", flat))
        for name, ours in zip(
            names[3:], ("conv1", "norm1", "conv2", "norm2", "conv3"), strict=False
        ):
            rules += (norm if ours.startswith("norm") else conv)(name, f"{target}mask/{ours}")
    return rules


def decoder_rules(
    layout: Layout,
    source: str = r"mask_decoder\.",
    target: str = "mask_decoder/",
    *,
    masks: int = 4,
    iou_depth: int = 3,
    object_score: bool = True,
    skips: bool = True,
) -> list[Rule]:
    """The mask decoder; flags as in :class:`~streamzoo.zoo.segment.decoder.DecoderConfig`,
    ``masks`` is multimasks + 1."""
    tokens = ["obj_score_token"] * object_score + ["iou_token", "mask_tokens"]
    rules = [
        Rule(rf"{source}{name}\.weight", target + "tokens", part=(i, len(tokens)), axis=0)
        for i, name in enumerate(tokens)
    ]
    layer = source + r"transformer\.layers\.(?P<n>\d+)\."
    ours = target + "transformer/layer{n}/"
    attentions = [
        (layer + "self_attn", ours + "self_attn"),
        (layer + "cross_attn_token_to_image", ours + "to_image"),
        (layer + "cross_attn_image_to_token", ours + "to_tokens"),
        (source + r"transformer\.final_attn_token_to_image", target + "transformer/final"),
    ]
    for theirs, mine in attentions:
        for name in "qkv":
            rules += dense(rf"{theirs}\.{name}_proj", f"{mine}/{name}")
        rules += dense(rf"{theirs}\.{layout.attn_out}", mine + "/out")
    for i in range(1, 5):
        rules += norm(f"{layer}{layout.norm}{i}", f"{ours}norm{i}")
    for name, mine in zip(layout.mlp, ("up", "down"), strict=False):
        rules += dense(layer + escape(name), f"{ours}mlp/{mine}")
    rules += norm(rf"{source}transformer\.{layout.norm_last}", target + "transformer/norm")
    first, between, second = (source + escape(name) for name in layout.upscale)
    rules += weighted(first, target + "upscale1", transposed2x2)
    rules += norm(between, target + "upscale_norm")
    rules += weighted(second, target + "upscale2", transposed2x2)
    hyper = source + r"output_hypernetworks_mlps\.(?P<layer>\d+)"
    rules += head(hyper, target + "hyper", 3, layout.head, stack=masks)
    rules += head(source + "iou_prediction_head", target + "iou_head", iou_depth, layout.head)
    if object_score:
        rules += head(source + "pred_obj_score_head", target + "object_head", 3, layout.head)
    if skips:
        rules += conv(source + "conv_s0", target + "skip0")
        rules += conv(source + "conv_s1", target + "skip1")
    return rules


def hiera_rules(
    source: str = r"vision_encoder\.backbone\.", target: str = "image_encoder/trunk/"
) -> list[Rule]:
    """The Hiera trunk, transformers' layout."""
    block, ours = source + r"blocks\.(?P<n>\d+)\.", target + "block{n}/"
    return [
        *conv(source + r"patch_embed\.projection", target + "patch_embed"),
        Rule(source + "pos_embed", target + "positions", map_of_channels),
        Rule(source + "pos_embed_window", target + "window_positions", map_of_channels),
        *norm(block + "layer_norm1", ours + "norm1"),
        *norm(block + "layer_norm2", ours + "norm2"),
        *dense(block + r"attn\.qkv", ours + "qkv"),
        *dense(block + r"attn\.proj", ours + "proj"),
        *dense(block + r"mlp\.proj_in", ours + "mlp/up"),
        *dense(block + r"mlp\.proj_out", ours + "mlp/down"),
        *dense(block + "proj", ours + "widen"),
    ]


def pyramid_rules(
    source: str = r"vision_encoder\.neck\.", target: str = "image_encoder/neck/", count: int = 4
) -> list[Rule]:
    """The feature pyramid; files number its convolutions from the coarsest map."""
    rules = []
    for i in range(count):
        rules += conv(rf"{source}convs\.{i}", f"{target}lateral{count - 1 - i}")
    return rules


def one_frequencies(tensors: Tensors, keys: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Files hold the Fourier frequencies up to twice; the model has them once.

    Returns the key to read, as a regular expression, and those to ignore.
    Raises ConvertError if there are none, or two that differ.
    """
    found = [key for key in keys if key in tensors]
    if not found:
        raise ConvertError(f"no position frequencies ({' or '.join(keys)}): is the file complete?")
    for key in found[1:]:
        if not np.array_equal(tensors[key], tensors[found[0]]):
            raise ConvertError(
                f"{found[0]} and {key} differ; points and image must share their positions"
            )
    return escape(found[0]), tuple(escape(key) for key in found[1:])


__all__ = [
    "META",
    "SAM",
    "SAM2",
    "Layout",
    "conv",
    "decoder_rules",
    "dense",
    "escape",
    "flat",
    "head",
    "hiera_rules",
    "map_of_channels",
    "norm",
    "one_frequencies",
    "prompt_rules",
    "pyramid_rules",
    "transposed2x2",
    "weighted",
]

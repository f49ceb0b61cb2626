"""What checkpoints of the SAM family tell of their parts, by weights and by config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...layers.streaming import Fields
from ..config_json import Settings, settings
from ..convert import Config, ConvertError

Tensors = Mapping[str, np.ndarray]

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "relu": "relu"}  # fmt: skip


def need(tensors: Tensors, key: str) -> np.ndarray:
    """A tensor that the sizes are read from. Raises ConvertError if it is missing."""
    if key not in tensors:
        raise ConvertError(f"a segment-anything checkpoint without {key}: is the file complete?")
    return tensors[key]


PROMPT = {"image_size": 1024, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
DECODER = {"num_attention_heads": 8, "hidden_act": "relu", "layer_norm_eps": 1e-6}


def activation(config: Mapping[str, Any]) -> str:
    """Our name of ``hidden_act``. Raises ConvertError for one that is not supported."""
    name = config["hidden_act"]
    if name not in ACTIVATIONS:
        raise ConvertError(f"hidden_act {name!r}: not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def depth_of(tensors: Tensors, prefix: str) -> int:
    """Number of blocks, from keys such as prefix + "11.…" (a gap is reported later)."""
    found = {k[len(prefix) :].split(".", 1)[0] for k in tensors if k.startswith(prefix)}
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)


def decoder_sizes(tensors: Tensors) -> Fields:
    """Fields of a :class:`DecoderConfig` that the weights show."""
    tokens = need(tensors, "mask_decoder.mask_tokens.weight")
    iou = "mask_decoder.iou_prediction_head."
    inner = need(tensors, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")
    mlp = "mask_decoder.transformer.layers.0.mlp."
    up = next((k for k in (mlp + "lin1.weight", mlp + "proj_in.weight") if k in tensors), mlp)
    return {
        "dim": tokens.shape[1],
        "depth": depth_of(tensors, "mask_decoder.transformer.layers."),
        "hidden": need(tensors, up).shape[0],
        "downsample": tokens.shape[1] // inner.shape[0],
        "multimasks": tokens.shape[0] - 1,
        "iou_depth": 2 + depth_of(tensors, iou + "layers."),
        "iou_hidden": need(tensors, iou + "proj_in.weight").shape[0],
    }


def decoder_overrides(tensors: Tensors, config: Config, **fields: Any) -> Fields:
    """Fields of a :class:`DecoderConfig`, from weights and config."""
    given = settings(config, "mask decoder", DECODER, "mask_decoder_config")
    shape = decoder_sizes(tensors)
    given.agree(
        hidden_size=shape["dim"],
        num_hidden_layers=shape["depth"],
        num_multimask_outputs=shape["multimasks"],
        mlp_dim=shape["hidden"],
        iou_head_depth=shape["iou_depth"],
    )
    heads = given.heads(shape["dim"] // shape["downsample"])
    return {**shape, "heads": heads, **fields}


def prompt_settings(config: Config) -> Settings:
    """What a config says of the prompt encoder. Raises ConvertError for what ours has not."""
    given = settings(config, "prompt encoder", PROMPT, "prompt_encoder_config")
    if activation(given) != "gelu":  # of the layers that take a mask in
        raise ConvertError(
            f"prompt encoder: config.json has hidden_act {given['hidden_act']!r}: only 'gelu' is"
            " supported"
        )
    return given

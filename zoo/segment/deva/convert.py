"""DEVA's checkpoints (hkchengrex/Tracking-Anything-with-DEVA, a state dict) -> our parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, register_converter
from ..rules import conv
from ..xmem.convert import (
    COUNTS,
    block_rules,
    blocks_in,
    feel_rules,
    folded,
    fuse_rules,
    key_rules,
    resnet_rules,
)

RULES = (
    *resnet_rules("pixel_encoder", "image_encoder", "res2"),
    *conv(r"pixel_encoder\.proj1", "image"),
    *conv(r"pixel_encoder\.proj2", "asked"),
    *key_rules("key_proj", "keys"),
    *resnet_rules("mask_encoder", "mask_encoder"),
    *fuse_rules(r"mask_encoder\.fuser", "mask_fuse"),
    *conv(r"mask_encoder\.sensory_update\.transform", "deep_feel/transform"),
    *fuse_rules(r"mask_decoder\.fuser", "fuse"),
    *conv(r"mask_decoder\.sensory_compress", "sense"),
    *feel_rules(r"mask_decoder\.sensory_update", "feel"),
    *conv(r"mask_decoder\.decoder_feat_proc\.transforms\.0", "skip8"),
    *conv(r"mask_decoder\.decoder_feat_proc\.transforms\.1", "skip4"),
    *block_rules(r"mask_decoder\.up_16_8\.out_conv", "up8/block"),
    *block_rules(r"mask_decoder\.up_8_4\.out_conv", "up4/block"),
    *conv(r"mask_decoder\.pred", "mask"),
)
TRAINING = (r"mask_decoder\.sensory_linear_pred\..*",)  # a head for a loss


def _is_deva(keys: frozenset[str], told: Config) -> bool:
    del told
    return {"pixel_encoder.proj2.weight", "mask_decoder.sensory_compress.weight"} <= keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    width = lambda key: int(tensors[f"{key}.weight"].shape[0])
    stages = ("res2", "layer2", "layer3")
    sizes = {
        "width": width("pixel_encoder.conv1"),
        "blocks": blocks_in(tensors, *(f"pixel_encoder.{name}" for name in stages)),
        "mask_blocks": blocks_in(tensors, *(f"mask_encoder.layer{i}" for i in (1, 2, 3))),
        "key": width("key_proj.key_proj"),
        "value": width("mask_encoder.fuser.block2.conv2"),
        "sensory": width("mask_decoder.sensory_update.transform") // 3,
        "image": width("pixel_encoder.proj1"),
        "decoder": tuple(
            width(f"mask_decoder.{at}.out_conv.conv1") for at in ("up_16_8", "up_8_4")
        ),
        "middle": width("mask_decoder.sensory_update.g16_conv"),
    }
    return Plan("deva", RULES, sizes, (*COUNTS, *TRAINING), folded)


register_converter(
    Converter("deva", _is_deva, _plan, "DEVA, a state dict of Tracking-Anything-with-DEVA")
)

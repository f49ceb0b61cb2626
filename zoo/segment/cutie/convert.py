"""Cutie's checkpoints (hkchengrex/Cutie, a state dict) -> our parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, Rule, conv1d, register_converter
from ..rules import conv, dense, norm
from ..xmem.convert import (
    COUNTS,
    block_rules,
    blocks_in,
    feel_rules,
    folded,
    key_rules,
    resnet_rules,
)

TRAINING = (r"aux_computer\..*", r".*\.inv_freq")  # heads for losses; rates of sines


def _prepared(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without batch norms, and queries, keys and values of an attention apart."""
    out = folded(tensors)
    for key in list(out):
        head, _, last = key.rpartition(".in_proj_")
        if head:
            for name, part in zip("qkv", np.split(np.asarray(out.pop(key)), 3), strict=True):
                out[f"{head}.{name}.{last}"] = part
    return out


def _gated(source: str, target: str) -> list[Rule]:
    return [
        *conv(rf"{source}\.(?P<part>conv1|conv2)", target + "/{part}"),
        Rule(rf"{source}\.conv\.weight", f"{target}/near/kernel", conv1d),
    ]


def _fuse(source: str, target: str) -> list[Rule]:
    return [
        *conv(rf"{source}\.distributor\.x_transform", f"{target}/image"),
        *conv(rf"{source}\.distributor\.g_transform", f"{target}/object"),
        *_gated(rf"{source}\.block1", f"{target}/block1"),
        *_gated(rf"{source}\.block2", f"{target}/block2"),
    ]


def _attend(source: str, target: str) -> list[Rule]:
    names = {"q": "query", "k": "key", "v": "value", "out_proj": "out"}
    return [
        rule
        for theirs, ours in names.items()
        for rule in dense(rf"{source}\.{theirs}", f"{target}/{ours}")
    ]


def _query_rules() -> list[Rule]:
    source, target = "object_transformer", "queries"
    block, ours = source + r"\.blocks\.(?P<n>\d+)\.", target + "/blocks_{n}/"
    rules = [
        Rule(rf"{source}\.query_init\.weight", f"{target}/start"),
        Rule(rf"{source}\.query_emb\.weight", f"{target}/place"),
        *dense(rf"{source}\.summary_to_query_init", f"{target}/known_start"),
        *dense(rf"{source}\.summary_to_query_emb", f"{target}/known_place"),
        *conv(rf"{source}\.pixel_init_proj", f"{target}/pixel_start"),
        *conv(rf"{source}\.pixel_emb_proj", f"{target}/pixel_place"),
        *_attend(block + r"read_from_pixel\.cross_attn", ours + "from_pixel"),
        *norm(block + r"read_from_pixel\.norm", ours + "norm1"),
        *_attend(block + r"self_attn\.self_attn", ours + "among"),
        *norm(block + r"self_attn\.norm", ours + "norm2"),
        *norm(block + r"ffn\.norm", ours + "norm3"),
        *dense(block + r"ffn\.linear1", ours + "up"),
        *dense(block + r"ffn\.linear2", ours + "down"),
        *_attend(block + r"read_from_query\.cross_attn", ours + "from_query"),
        *_gated(block + r"pixel_ffn\.conv", ours + "block"),
    ]
    return rules


RULES = (
    *resnet_rules("pixel_encoder", "image_encoder", "res2"),
    *conv("pix_feat_proj", "image"),
    *conv(r"key_proj\.pix_feat_proj", "asked"),
    *key_rules("key_proj", "keys"),
    *resnet_rules("mask_encoder", "mask_encoder"),
    *_fuse(r"mask_encoder\.fuser", "mask_fuse"),
    *conv(r"mask_encoder\.sensory_update\.transform", "deep_feel/transform"),
    *dense(r"object_summarizer\.input_proj", "summary/into"),
    *dense(r"object_summarizer\.feature_pred\.0", "summary/feature1"),
    *dense(r"object_summarizer\.feature_pred\.2", "summary/feature2"),
    *dense(r"object_summarizer\.weights_pred\.0", "summary/weight1"),
    *dense(r"object_summarizer\.weights_pred\.2", "summary/weight2"),
    *_fuse(r"pixel_fuser\.fuser", "fuse"),
    *conv(r"pixel_fuser\.sensory_compress", "sense"),
    *_query_rules(),
    *feel_rules(r"mask_decoder\.sensory_update", "feel"),
    *conv(r"mask_decoder\.decoder_feat_proc\.transforms\.0", "skip8"),
    *conv(r"mask_decoder\.decoder_feat_proc\.transforms\.1", "skip4"),
    *block_rules(r"mask_decoder\.up_16_8\.out_conv", "up8/block"),
    *block_rules(r"mask_decoder\.up_8_4\.out_conv", "up4/block"),
    *conv(r"mask_decoder\.pred", "mask"),
)


def _is_cutie(keys: frozenset[str], told: Config) -> bool:
    del told
    return {"object_transformer.query_init.weight", "key_proj.pix_feat_proj.weight"} <= keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    shape = lambda key: tuple(int(n) for n in tensors[f"{key}.weight"].shape)
    width = lambda key: shape(key)[0]
    narrow = "pixel_encoder.res2.0.conv3.weight" in tensors
    queries, value = shape("object_transformer.query_init")
    depth = 1 + max(
        int(key.split(".")[2]) for key in tensors if key.startswith("object_transformer.blocks.")
    )
    sizes = {
        "width": width("pixel_encoder.conv1"),
        "narrow": narrow,
        "blocks": blocks_in(
            tensors, *(f"pixel_encoder.{name}" for name in ("res2", "layer2", "layer3"))
        ),
        "mask_blocks": blocks_in(tensors, *(f"mask_encoder.layer{i}" for i in (1, 2, 3))),
        "key": width("key_proj.key_proj"),
        "value": value,
        "sensory": width("mask_decoder.sensory_update.transform") // 3,
        "image": width("pix_feat_proj"),
        "decoder": tuple(width(f"mask_decoder.up_{at}.out_conv.conv1") for at in ("16_8", "8_4")),
        "queries": queries,
        "depth": depth,
        "hidden": width("object_transformer.blocks.0.ffn.linear1"),
    }
    # the last guess is there for a loss
    ignore = (*COUNTS, *TRAINING, rf"object_transformer\.mask_pred\.{depth}\..*")
    earlier = "|".join(map(str, range(depth)))
    guess = conv(rf"object_transformer\.mask_pred\.(?P<n>{earlier})\.1", "queries/guess_{n}")
    name = "cutie-base" if narrow else "cutie-small"
    return Plan(name, (*RULES, *guess), sizes, ignore, _prepared)


register_converter(Converter("cutie", _is_cutie, _plan, "Cutie, a state dict of hkchengrex/Cutie"))

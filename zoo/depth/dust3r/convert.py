"""DUSt3R and MASt3R as their project publishes them.

Its ``.pth`` files are pickles that hold more than weights; the weights are what is under "model":
``safetensors.torch.save_model``'s layout of the same network, which the project's classes write by
``save_pretrained``, is what is read here. Heads of attention are 64 wide unless the config.json
beside the weights says how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
from ...rules import dense_rules, depth_of, nearest_plan, need, norm_rules, patch_kernel
from ..rules import conv_rules, enlarging, pointwise
from ..vggt.convert import block_rules, fuse_rules, turned

Tensors = Mapping[str, np.ndarray]
FAMILY = "DUSt3R"
WIDTH = 64  # of a head of attention in all that is published
# what masked training left behind, and the deepest merge, which has nothing to merge with
BESIDE = (r"mask_token", r"prediction_head\..*", r".*\.scratch\.refinenet4\.resConfUnit1\..*")
# the same convolutions under a second name, where a file has both
TWINS = (r".*\.scratch\.layer_rn\.\d\.weight",)


def _turned_rows(heads: int):
    """Weights [D, ...] or biases of queries or keys, as halves over both axes of the picture."""

    def transform(x: np.ndarray) -> np.ndarray:
        x = turned(x.reshape(heads, -1, *x.shape[1:]), 1).reshape(x.shape)
        return x.T

    return transform


def _decoder(source: str, target: str, depth: int, heads: int) -> list[Rule]:
    layer = source + r"\.(?P<layer>\d+)\."
    own = block_rules(layer, target, depth, heads, normed=False, scaled=False)
    rules = [rule for rule in own if "norm2" not in rule.pattern]
    rules += norm_rules(layer + "norm2", target + "norm_cross", depth)
    rules += norm_rules(layer + "norm3", target + "norm2", depth)
    rules += norm_rules(layer + "norm_y", target + "norm_context", depth)
    for name, ours in (("projq", "query"), ("projk", "key"), ("projv", "value"), ("proj", "out")):
        turns = ours in ("query", "key")
        move = _turned_rows(heads) if turns else linear
        bias = _turned_rows(heads) if turns else np.asarray
        at, to = layer + rf"cross_attn\.{name}\.", f"{target}cross/{ours}/"
        rules.append(Rule(at + "weight", to + "kernel", move, stack=depth))
        rules.append(Rule(at + "bias", to + "bias", bias, stack=depth))
    return rules


def _dpt(source: str, target: str, second: bool) -> list[Rule]:
    """A DPT head; its convolutions to one width have two names, of which a file may hold one."""
    rules = []
    for i in range(4):
        stage = source + rf"act_postprocess\.{i}\."
        rules += conv_rules(stage + "0", f"{target}neck/project{i}", pointwise)
        if i != 2:
            move = conv2d if i == 3 else enlarging
            rules += conv_rules(stage + "1", f"{target}neck/resize{i}", move)
        name = source + rf"scratch\.layer{i + 1}_rn"
        if second:
            name = source + rf"scratch\.layer_rn\.{i}"
        rules += conv_rules(name, f"{target}neck/narrow{i}", bias=False)
        rules += fuse_rules(source, target, i)
    rules += conv_rules(source + r"head\.0", target + "head/conv1")
    rules += conv_rules(source + r"head\.2", target + "head/conv2")
    return rules + conv_rules(source + r"head\.4", target + "head/conv3", pointwise)


def _plan(tensors: Tensors, config: Config) -> Plan:
    told = config or {}
    dim, _, patch, _ = need(tensors, "patch_embed.proj.weight", FAMILY).shape
    width = len(need(tensors, "decoder_embed.bias", FAMILY))
    depth, layers = depth_of(tensors, "enc_blocks."), depth_of(tensors, "dec_blocks.")
    heads = _heads(told, "enc_num_heads", dim)
    decoder_heads = _heads(told, "dec_num_heads", width)
    linear_head = "downstream_head1.proj.weight" in tensors
    local = "downstream_head1.head_local_features.fc2.bias"
    fields = {
        "patch": patch,
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "decoder_dim": width,
        "decoder_depth": layers,
        "decoder_heads": decoder_heads,
        "head": "linear" if linear_head else "dpt",
    }
    if local in tensors:
        fields["descriptors"] = len(tensors[local]) // patch**2 - 1
        fields["floor"] = _floor(told)
    if not linear_head:
        at = "downstream_head1.dpt."
        fields["widths"] = tuple(
            len(need(tensors, f"{at}act_postprocess.{i}.0.bias", FAMILY)) for i in range(4)
        )
        hidden, half = need(tensors, at + "head.2.weight", FAMILY).shape[:2]
        fields |= {"fused": 2 * half, "hidden": hidden}
    rules = [
        Rule(r"patch_embed\.proj\.weight", "patch_embed/kernel", patch_kernel),
        Rule(r"patch_embed\.proj\.bias", "patch_embed/bias"),
        *block_rules(r"enc_blocks\.(?P<layer>\d+)\.", "blocks/layer0/", depth, heads, False, False),
        *norm_rules("enc_norm", "norm"),
        *dense_rules("decoder_embed", "into"),
        *_decoder("dec_blocks", "pairs/first/", layers, decoder_heads),
        *_decoder("dec_blocks2", "pairs/second/", layers, decoder_heads),
        *norm_rules("dec_norm", "decoder_norm"),
    ]
    for number, ours in ((1, "first/"), (2, "second/")):
        head = rf"downstream_head{number}\."
        if linear_head:
            rules += dense_rules(head + "proj", ours + "pixels/out")
        else:
            twin = f"downstream_head{number}.dpt.scratch.layer1_rn.weight" not in tensors
            rules += _dpt(head + r"dpt\.", ours, twin)
        if local in tensors:
            rules += dense_rules(head + r"head_local_features\.fc1", ours + "local_up")
            rules += dense_rules(head + r"head_local_features\.fc2", ours + "local/out")
    names = "mast3r-*" if local in tensors else "dust3r-*"
    return nearest_plan((names,), fields, rules, (*BESIDE, *TWINS))


def _heads(config: Mapping[str, object], key: str, width: int) -> int:
    """How many heads of attention there are. Raises ConvertError for a number that does not fit."""
    count = config.get(key, width // WIDTH)
    if not isinstance(count, int) or count < 1 or width % count:
        raise ConvertError(f"{key} {count!r} of the config.json: it does not divide {width}")
    return count


def _floor(config: Mapping[str, object]) -> float:
    """The least certainty of a descriptor: 0 in what is published. Raises ConvertError for a
    descriptor without a certainty of its own."""
    if not config.get("two_confs", True):
        raise ConvertError("a MASt3R whose descriptors have no certainty of their own is not read")
    mode = config.get("desc_conf_mode") or ("exp", 0.0)
    if not isinstance(mode, list | tuple) or len(mode) < 2 or mode[0] != "exp":
        raise ConvertError(f"desc_conf_mode {mode!r}: only 'exp' is read")
    return float(mode[1])


register_converter(
    Converter(
        "dust3r",
        lambda keys, config: {"dec_blocks2.0.norm_y.weight", "decoder_embed.weight"} <= keys,
        _plan,
        "DUSt3R and MASt3R as their project publishes them",
    )
)

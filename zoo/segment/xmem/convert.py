"""XMem's checkpoints (hkchengrex/XMem, a state dict) -> our parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...convert import Config, Converter, Plan, Rule, conv2d, linear, register_converter
from ..rules import conv, weighted

EPSILON = 1e-5  # of batch norms
COUNTS = (r".*\.num_batches_tracked",)


def folded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With every batch norm folded into the convolution before it: ``bn1`` into ``conv1``,
    ``downsample.1`` into ``downsample.0``."""
    out = dict(tensors)
    for key in tensors:
        if not key.endswith(".running_var"):
            continue
        norm = key.removesuffix(".running_var")
        weight, bias, mean, var = (
            np.asarray(out.pop(f"{norm}.{part}"), np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        head, _, last = norm.rpartition(".")
        layer = f"{head}.{'0' if last == '1' else last.replace('bn', 'conv')}"
        scale = weight / np.sqrt(var + EPSILON)
        kernel = np.asarray(out[f"{layer}.weight"], np.float64)
        out[f"{layer}.weight"] = (kernel * scale[:, None, None, None]).astype(np.float32)
        out[f"{layer}.bias"] = (bias - mean * scale).astype(np.float32)
    return out


def resnet_rules(source: str, target: str, first: str = "layer1") -> list[Rule]:
    """A trunk after :func:`folded`; ``first`` is what the file calls its first stage."""
    rules = conv(rf"{source}\.conv1", f"{target}/stem")
    for theirs, ours in ((first, "layer1"), ("layer2", "layer2"), ("layer3", "layer3")):
        block = rf"{source}\.{theirs}\.(?P<n>\d+)\."
        mine = f"{target}/{ours}_{{n}}/"
        rules += weighted(block + r"conv(?P<i>\d)", mine + "conv{i}", conv2d)
        rules += _maybe(weighted(block + r"downsample\.0", mine + "skip", conv2d))
    return rules


def _maybe(rules: list[Rule]) -> list[Rule]:
    """Rules of layers that are there where the width changes; the model knows where that is."""
    return [replace(rule, optional=True) for rule in rules]


def block_rules(source: str, target: str) -> list[Rule]:
    """A residual block."""
    rules = conv(rf"{source}\.(?P<part>conv1|conv2)", target + "/{part}")
    return rules + _maybe(conv(rf"{source}\.downsample", f"{target}/shortcut"))


def fuse_rules(source: str, target: str) -> list[Rule]:
    """Two residual blocks around a gate."""
    gate = rf"{source}\.attention\."
    return [
        *block_rules(rf"{source}\.block1", f"{target}/block1"),
        *block_rules(rf"{source}\.block2", f"{target}/block2"),
        *weighted(gate + r"ChannelGate\.mlp\.1", f"{target}/gate/down", linear),
        *weighted(gate + r"ChannelGate\.mlp\.3", f"{target}/gate/up", linear),
        *conv(gate + r"SpatialGate\.spatial\.conv", f"{target}/gate/spatial"),
    ]


def key_rules(source: str, target: str) -> list[Rule]:
    """Keys, what they are selected by, and how sharp they are."""
    names = {"key_proj": "key", "e_proj": "select", "d_proj": "shrink"}
    return [
        rule
        for theirs, ours in names.items()
        for rule in conv(rf"{source}\.{theirs}", f"{target}/{ours}")
    ]


def feel_rules(source: str, target: str) -> list[Rule]:
    """The sensory memory's step after a mask."""
    return [
        *conv(rf"{source}\.g(?P<n>\d+)_conv", target + "/from{n}"),
        *conv(rf"{source}\.transform", f"{target}/recur/transform"),
    ]


RULES = (
    *resnet_rules("key_encoder", "image_encoder", "res2"),
    *key_rules("key_proj", "keys"),
    *resnet_rules("value_encoder", "mask_encoder"),
    *fuse_rules(r"value_encoder\.fuser", "mask_fuse"),
    *conv(r"value_encoder\.hidden_reinforce\.transform", "deep_feel/transform"),
    *fuse_rules(r"decoder\.fuser", "fuse"),
    *conv(r"decoder\.up_16_8\.skip_conv", "up8/skip"),
    *block_rules(r"decoder\.up_16_8\.out_conv", "up8/block"),
    *conv(r"decoder\.up_8_4\.skip_conv", "up4/skip"),
    *block_rules(r"decoder\.up_8_4\.out_conv", "up4/block"),
    *conv(r"decoder\.pred", "mask"),
    *feel_rules(r"decoder\.hidden_update", "feel"),
)


def blocks_in(tensors: Mapping[str, np.ndarray], *stages: str) -> tuple[int, ...]:
    """How many blocks each of a trunk's stages has."""
    names = {key: key.split(".") for key in tensors}
    return tuple(
        1 + max(int(parts[2]) for key, parts in names.items() if key.startswith(stage + "."))
        for stage in stages
    )


def _is_xmem(keys: frozenset[str], told: Config) -> bool:
    del told
    return {"key_proj.key_proj.weight", "value_encoder.hidden_reinforce.transform.weight"} <= keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    width = lambda key: int(tensors[f"{key}.weight"].shape[0])
    up8 = tensors["decoder.up_16_8.out_conv.conv1.weight"].shape
    sizes = {
        "width": width("key_encoder.conv1"),
        "blocks": blocks_in(
            tensors, "key_encoder.res2", "key_encoder.layer2", "key_encoder.layer3"
        ),
        "mask_blocks": blocks_in(tensors, *(f"value_encoder.layer{i}" for i in (1, 2, 3))),
        "key": width("key_proj.key_proj"),
        "value": width("value_encoder.fuser.block2.conv2"),
        "sensory": width("decoder.hidden_update.transform") // 3,
        "decoder": (int(up8[1]), int(up8[0]), width("decoder.up_8_4.out_conv.conv1")),
        "middle": width("decoder.hidden_update.g16_conv"),
    }
    return Plan("xmem", RULES, sizes, COUNTS, folded)


register_converter(Converter("xmem", _is_xmem, _plan, "XMem, a state dict of hkchengrex/XMem"))

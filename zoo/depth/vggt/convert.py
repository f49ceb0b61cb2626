"""VGGT as its project publishes it. The tracking head is left out: points are tracked elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, Rule, linear, register_converter, squeeze0
from ...rules import dense_rules, depth_of, nearest_plan, need, norm_rules, patch_kernel
from ..rules import conv_rules, enlarging, pointwise
from .config import LARGE


def turned(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """A head's channels [rows' first halves, rows' second halves, columns' first, columns' second]
    -> first halves, then second ones: the published code turns each half of a head by itself."""
    a, b, c, d = np.split(x, 4, axis=axis)
    return np.concatenate([a, c, b, d], axis=axis)


def _fused(x: np.ndarray, heads: int) -> np.ndarray:
    """qkv weight [3 D, ...] or bias, queries and keys turned, [..., 3 D] as a dense kernel."""
    parts = x.reshape(3, heads, -1, *x.shape[1:])
    return np.stack([turned(parts[0], 1), turned(parts[1], 1), parts[2]]).reshape(x.shape).T


def block_rules(
    layer: str, target: str, depth: int, heads: int = 0, normed: bool = True, scaled: bool = True
) -> list[Rule]:
    """A block; ``heads`` above 0: it turns its queries and keys, and norms them if ``normed``;
    ``scaled``: its branches have gains."""
    move = functools.partial(_fused, heads=heads) if heads else linear
    bias = functools.partial(_fused, heads=heads) if heads else np.asarray
    rules = [
        Rule(layer + r"attn\.qkv\.weight", target + "attn/qkv/kernel", move, stack=depth),
        Rule(layer + r"attn\.qkv\.bias", target + "attn/qkv/bias", bias, stack=depth),
    ]
    for name, ours in (
        (("q_norm", "query_norm"), ("k_norm", "key_norm")) if heads and normed else ()
    ):
        for part, leaf in (("weight", "scale"), ("bias", "bias")):
            source = layer + rf"attn\.{name}\.{part}"
            rules.append(Rule(source, f"{target}attn/{ours}/{leaf}", turned, stack=depth))
    rules += dense_rules(layer + r"attn\.proj", target + "attn/out", depth)
    for k, name in ((1, "up"), (2, "down")):
        rules += norm_rules(layer + f"norm{k}", f"{target}norm{k}", depth)
        gain = Rule(layer + rf"ls{k}\.gamma", f"{target}scale{k}/gain", stack=depth)
        rules += [gain] * scaled
        rules += dense_rules(layer + rf"mlp\.fc{k}", f"{target}mlp/{name}", depth)
    return rules


def fuse_rules(source: str, target: str, i: int) -> list[Rule]:
    """Step ``i`` of a DPT neck. The published ones count from the finest map, ours from the
    deepest, which has nothing to be merged with."""
    net, fuse = source + rf"scratch\.refinenet{4 - i}\.", f"{target}neck/fuse{i}/"
    rules = conv_rules(net + "out_conv", fuse + "out", pointwise)
    for unit in (1, 2) if i else (2,):
        for conv in (1, 2):
            name = net + rf"resConfUnit{unit}\.conv{conv}"
            rules += conv_rules(name, f"{fuse}unit{unit}/conv{conv}")
    return rules


def _map_rules(source: str, target: str) -> list[Rule]:
    """A DPT head."""
    rules = norm_rules(source + "norm", target + "norm")
    for i in range(4):
        rules += conv_rules(source + rf"projects\.{i}", f"{target}neck/project{i}", pointwise)
        narrow = source + rf"scratch\.layer{i + 1}_rn"
        rules += conv_rules(narrow, f"{target}neck/narrow{i}", bias=False)
        rules += fuse_rules(source, target, i)
    for i in (0, 1):
        name = source + rf"resize_layers\.{i}"
        rules += conv_rules(name, f"{target}neck/resize{i}", enlarging)
    rules += conv_rules(source + r"resize_layers\.3", target + "neck/resize3")
    rules += conv_rules(source + r"scratch\.output_conv1", target + "head/conv1")
    rules += conv_rules(source + r"scratch\.output_conv2\.0", target + "head/conv2")
    return rules + conv_rules(
        source + r"scratch\.output_conv2\.2", target + "head/conv3", pointwise
    )


def encoder_rules(depth: int, stem: str = r"aggregator\.patch_embed\.") -> list[Rule]:
    """The DINOv2 with registers of single views."""
    rules = [
        Rule(stem + r"cls_token", "encoder/class_tokens", squeeze0),
        Rule(stem + r"register_tokens", "encoder/registers", squeeze0),
        Rule(stem + r"pos_embed", "encoder/positions", squeeze0),
        Rule(stem + r"patch_embed\.proj\.weight", "encoder/patch_embed/kernel", patch_kernel),
        Rule(stem + r"patch_embed\.proj\.bias", "encoder/patch_embed/bias"),
    ]
    rules += norm_rules(stem + "norm", "encoder/norm")
    layer = stem + r"blocks\.(?P<layer>\d+)\."
    return rules + block_rules(layer, "encoder/blocks/layer0/", depth)


def plain_encoder(plan: Plan) -> Plan:
    """The plan with its encoder as the plain dict that a card holds."""
    changed = dict(plan.overrides)
    if "encoder" in changed:
        changed["encoder"] = dataclasses.asdict(changed["encoder"])
    return dataclasses.replace(plan, overrides=changed)


def _plan(
    tensors: Mapping[str, np.ndarray], config: Config, names: tuple[str, ...] = ("vggt-*",)
) -> Plan:
    del config  # all that it could tell is in the shapes
    family, body = "VGGT", "aggregator."
    camera = need(tensors, body + "camera_token", family)
    registers = need(tensors, body + "register_token", family).shape[2]
    head = need(tensors, body + "frame_blocks.0.attn.q_norm.weight", family).shape[0]
    dim, depth = camera.shape[-1], depth_of(tensors, body + "frame_blocks.")
    heads, trunk = dim // head, depth_of(tensors, "camera_head.trunk.")
    conv = body + "patch_embed.proj.weight" in tensors
    patch_name = "patch_embed.proj.weight" if conv else "patch_embed.patch_embed.proj.weight"
    patch = need(tensors, body + patch_name, family).shape[-1]
    widths = (need(tensors, f"depth_head.projects.{i}.weight", family).shape[0] for i in range(4))
    last = need(tensors, "depth_head.scratch.output_conv2.0.weight", family)
    fields = {
        "conv_stem": conv,
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "patch": patch,
        "registers": registers,
        "camera_depth": trunk,
        "camera_heads": heads,  # as many as the blocks have; twice as wide
        "widths": tuple(widths),
        "fused": 2 * last.shape[1],
        "hidden": last.shape[0],
    }
    if depth != 24:
        fields["layers"] = tuple(round((depth - 1) * k / 3) for k in range(4))
    rules = [
        Rule(r"aggregator\.camera_token", "camera", squeeze0),
        Rule(r"aggregator\.register_token", "registers", squeeze0),
        Rule(r"camera_head\.empty_pose_tokens", "cameras/empty", lambda x: x[0, 0]),
    ]
    if conv:
        stem = r"aggregator\.patch_embed\.proj\."
        rules.append(Rule(stem + "weight", "patch_embed/kernel", patch_kernel))
        rules.append(Rule(stem + "bias", "patch_embed/bias"))
    else:
        inner = depth_of(tensors, body + "patch_embed.blocks.")
        rules += encoder_rules(inner)
        table = need(tensors, body + "patch_embed.pos_embed", family)
        side = round((table.shape[1] - 1) ** 0.5)
        fields["encoder"] = dataclasses.replace(
            LARGE, dim=dim, depth=inner, patch=patch, table_grid=(side, side),
            image_size=(side * patch, side * patch),
        )  # fmt: skip
    for source, target in (("frame_blocks", "frame"), ("global_blocks", "world")):
        layer = rf"aggregator\.{source}\.(?P<layer>\d+)\."
        rules += block_rules(layer, f"pairs/{target}/", depth, heads)
    layer = r"camera_head\.trunk\.(?P<layer>\d+)\."
    rules += block_rules(layer, "cameras/trunk/layer0/", trunk)
    for name in ("token_norm", "trunk_norm"):
        rules += norm_rules(rf"camera_head\.{name}", f"cameras/{name}")
    for name, ours in (
        ("embed_pose", "embed"),
        (r"poseLN_modulation\.1", "modulation"),
        (r"pose_branch\.fc1", "up"),
        (r"pose_branch\.fc2", "down"),
    ):
        rules += dense_rules(rf"camera_head\.{name}", f"cameras/{ours}")
    rules += _map_rules(r"depth_head\.", "depth_head/") + _map_rules(r"point_head\.", "point_head/")
    ignore = (r"track_head\..*", r"aggregator\.patch_embed\.mask_token")
    return plain_encoder(nearest_plan(names, fields, rules, ignore))


register_converter(
    Converter(
        "vggt",
        lambda keys, config: "aggregator.camera_token" in keys,
        _plan,
        "VGGT, its tracking head left out",
    )
)
register_converter(
    Converter(
        "vggt-stream",
        lambda keys, config: False,
        functools.partial(_plan, names=("vggtstream-*",)),
        "VGGT as a stream",
        models="vggtstream-*",
    )
)

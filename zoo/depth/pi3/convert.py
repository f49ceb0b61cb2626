"""Pi3 as its project publishes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...rules import dense_rules, depth_of, nearest_plan, need
from ..vggt.config import LARGE
from ..vggt.convert import block_rules, encoder_rules, plain_encoder

Tensors = Mapping[str, np.ndarray]
FAMILY = "Pi3"
DECODERS = (("point", "points"), ("conf", "certainty"), ("camera", "camera"))
BESIDE = (r"image_(mean|std)", r"encoder\.mask_token")


def _halves(depth: int, heads: int) -> list[Rule]:
    """The blocks, which take turns within a view and among all of them."""
    rules = []
    for digits, part in (("02468", "frame"), ("13579", "world")):
        layer = rf"decoder\.(?P<layer>\d*[{digits}])\."
        for rule in block_rules(layer, f"pairs/{part}/", depth, heads):
            rules.append(dataclasses.replace(rule, period=2))
    return rules


def _decoder(source: str, target: str, depth: int, heads: int) -> list[Rule]:
    at = rf"{source}_decoder\."
    layer = at + r"blocks\.(?P<layer>\d+)\."
    trunk = f"{target}/trunk/layer0/"
    return [
        *dense_rules(at + "projects", f"{target}/into"),
        *block_rules(layer, trunk, depth, heads, normed=False, scaled=False),
        *dense_rules(at + "linear_out", f"{target}/out"),
    ]


def _plan(tensors: Tensors, config: Config) -> Plan:
    del config  # all that it could tell is in the shapes
    blocks, inner = depth_of(tensors, "decoder."), depth_of(tensors, "encoder.blocks.")
    head = len(need(tensors, "decoder.0.attn.q_norm.weight", FAMILY))
    registers, dim = need(tensors, "register_token", FAMILY).shape[2:]
    width = len(need(tensors, "point_decoder.projects.bias", FAMILY))
    depth = depth_of(tensors, "point_decoder.blocks.")
    patch = need(tensors, "encoder.patch_embed.proj.weight", FAMILY).shape[-1]
    side = round((need(tensors, "encoder.pos_embed", FAMILY).shape[1] - 1) ** 0.5)
    if blocks % 2:
        raise ConvertError(
            f"{FAMILY}: {blocks} blocks, which is no even number: is the file whole?"
        )
    encoder = dataclasses.replace(
        LARGE, dim=dim, depth=inner, heads=dim // head, patch=patch, table_grid=(side, side),
        registers=need(tensors, "encoder.register_tokens", FAMILY).shape[1],
        image_size=(side * patch, side * patch),
    )  # fmt: skip
    fields = {
        "encoder": encoder,
        "dim": dim,
        "depth": blocks // 2,
        "heads": dim // head,
        "registers": registers,
        "head_dim": width,
        "head_depth": depth,
        "head_heads": width // head,
        "camera_dim": len(need(tensors, "camera_decoder.linear_out.bias", FAMILY)),
    }
    rules = [
        Rule(r"register_token", "registers", lambda x: x[0, 0]),
        *encoder_rules(inner, r"encoder\."),
        *_halves(blocks // 2, dim // head),
        *(r for a, b in DECODERS for r in _decoder(a, b, depth, width // head)),
        *dense_rules(r"point_head\.proj", "points_out/out"),
        *dense_rules(r"conf_head\.proj", "certainty_out/out"),
        *dense_rules(r"camera_head\.fc_t", "pose/place"),
        *dense_rules(r"camera_head\.fc_rot", "pose/turn"),
    ]
    for i in range(2):
        for j in range(3):
            source = rf"camera_head\.res_conv\.{i}\.res_conv{j + 1}"
            rules += dense_rules(source, f"pose/first_{3 * i + j}")
        rules += dense_rules(rf"camera_head\.more_mlps\.{2 * i}", f"pose/then_{i}")
    return plain_encoder(nearest_plan(("pi3-*",), fields, rules, BESIDE))


register_converter(
    Converter(
        "pi3",
        lambda keys, config: {"camera_head.fc_rot.weight", "conf_decoder.projects.weight"} <= keys,
        _plan,
        "Pi3 as its project publishes it",
    )
)

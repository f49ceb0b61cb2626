"""Wan's video autoencoder in diffusers' layout (AutoencoderKLWan) -> our parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv2d,
    conv3d,
    register_converter,
)
from ...rules import need

SIGN = "decoder.up_blocks.0.upsamplers.0.time_conv.weight"
FIRST = "encoder.conv_in.weight"


def cells(x: np.ndarray) -> np.ndarray:
    """A convolution of size 1, [O, I, 1, ...] -> Dense kernel [I, O]."""
    return x.reshape(x.shape[:2]).T


def flat(x: np.ndarray) -> np.ndarray:
    """[C, 1, ...] -> [C]."""
    return x.reshape(-1)


def _conv(source: str, target: str, kind=conv3d, optional: bool = False) -> list[Rule]:
    return [
        Rule(source + r"\.weight", target + "/kernel", kind, optional=optional),
        Rule(source + r"\.bias", target + "/bias", optional=optional),
    ]


def _residual(source: str, target: str) -> list[Rule]:
    table = _conv(source + r"\.conv_shortcut", target + "/shortcut", cells, optional=True)
    for i in (1, 2):
        table += _conv(rf"{source}\.conv{i}", f"{target}/conv{i}")
        table.append(Rule(rf"{source}\.norm{i}\.gamma", f"{target}/norm{i}/gamma", flat))
    return table


def _ends(half: str) -> list[Rule]:
    table = _conv(half + r"\.conv_in", half + "/conv_in")
    table += _conv(half + r"\.conv_out", half + "/conv_out")
    table.append(Rule(half + r"\.norm_out\.gamma", half + "/norm/gamma", flat))
    for i, name in enumerate(("first", "second")):
        table += _residual(rf"{half}\.mid_block\.resnets\.{i}", f"{half}/middle/{name}")
    at, to = half + r"\.mid_block\.attentions\.0", half + "/middle/attention"
    table.append(Rule(at + r"\.norm\.gamma", to + "/norm/gamma", flat))
    table += _conv(at + r"\.to_qkv", to + "/qkv", cells) + _conv(at + r"\.proj", to + "/out", cells)
    return table


def rules(levels: int, blocks: int, over_time: tuple[bool, ...]) -> list[Rule]:
    """The table of an autoencoder with so many levels and residual blocks."""
    table = _ends("encoder") + _ends("decoder")
    table += _conv("quant_conv", "quant", cells) + _conv("post_quant_conv", "post_quant", cells)
    place = 0  # the encoder's levels are one list
    for level in range(levels):
        for i in range(blocks):
            table += _residual(rf"encoder\.down_blocks\.{place}", f"encoder/level{level}_{i}")
            place += 1
        for i in range(blocks + 1):
            source = rf"decoder\.up_blocks\.{level}\.resnets\.{i}"
            table += _residual(source, f"decoder/level{level}_{i}")
        if level == levels - 1:
            break
        steps = (
            (rf"encoder\.down_blocks\.{place}", f"encoder/down{level}", over_time[level]),
            (
                rf"decoder\.up_blocks\.{level}\.upsamplers\.0",
                f"decoder/up{level}",
                over_time[::-1][level],
            ),
        )
        for source, target, timed in steps:
            table += _conv(source + r"\.resample\.1", target + "/picture/conv", conv2d)
            if timed:
                table += _conv(source + r"\.time_conv", target + "/time")
        place += 1
    return table


def _is_wan_vae(keys: frozenset[str], told: Config) -> bool:
    del told
    return SIGN in keys and FIRST in keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    family = "Wan autoencoder"
    dim = need(tensors, FIRST, family).shape[0]
    latent = need(tensors, "post_quant_conv.weight", family).shape[0]
    ups = {int(m[1]) for k in tensors if (m := re.match(r"decoder\.up_blocks\.(\d+)\.", k))}
    levels = len(ups)
    inside = r"decoder\.up_blocks\.0\.resnets\.(\d+)\."
    blocks = len({m[1] for k in tensors if (m := re.match(inside, k))}) - 1
    if levels < 2 or blocks < 1:
        raise ConvertError(f"a {family} with {levels} levels of {blocks} blocks")
    widths = [
        need(tensors, f"decoder.up_blocks.{i}.resnets.0.conv1.weight", family).shape[0]
        for i in reversed(range(levels))
    ]
    timed = tuple(
        f"decoder.up_blocks.{i}.upsamplers.0.time_conv.weight" in tensors
        for i in reversed(range(levels - 1))
    )
    told = told or {}
    overrides = dict(
        dim=dim,
        latent=latent,
        mult=tuple(w // dim for w in widths),
        blocks=blocks,
        over_time=timed,
        mean=tuple(told.get("latents_mean") or ()),
        std=tuple(told.get("latents_std") or ()),
    )
    if told.get("attn_scales"):
        raise ConvertError(f"attention at scales {told['attn_scales']} is not built here")
    return Plan("wan-vae", rules(levels, blocks, timed), overrides)


register_converter(
    Converter("wan-vae", _is_wan_vae, _plan, "Wan 2.1's video autoencoder, diffusers layout")
)

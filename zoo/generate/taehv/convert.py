"""TAEHV as published -> our parameters: a list of layers per half, by number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, Rule, conv2d, register_converter
from ...rules import need

# where each level begins in the two lists: its blocks, its change of frames, its convolution
DECODER = ((3, 7, 8), (9, 13, 14), (15, 19, 20))
ENCODER = ((4, 2, 3), (9, 7, 8), (14, 12, 13))


def cells(x: np.ndarray) -> np.ndarray:
    """A convolution of size 1, [O, I, 1, 1] -> Dense kernel [I, O]."""
    return x[:, :, 0, 0].T


def conv(source: str, target: str, bias: bool = True) -> list[Rule]:
    """A convolution of pictures."""
    table = [Rule(source + r"\.weight", target + "/conv/kernel", conv2d)]
    return table + [Rule(source + r"\.bias", target + "/conv/bias")] * bias


def three(source: str, target: str) -> list[Rule]:
    """A block's convolutions, with ReLU between them in the list."""
    table = []
    for i in range(3):
        table += conv(rf"{source}\.conv\.{2 * i}", f"{target}/convs/conv{i}")
    return table


def _half(half: str, levels, ends: tuple[int, int], change: str) -> list[Rule]:
    table = conv(rf"{half}\.{ends[0]}", half + "/conv_in")
    table += conv(rf"{half}\.{ends[1]}", half + "/conv_out")
    for level, (blocks, frames, after) in enumerate(levels):
        for i in range(3):
            table += three(rf"{half}\.{blocks + i}", f"{half}/level{level}_{i}")
        kernel = f"{half}/{change}{level}/kernel"
        table.append(Rule(rf"{half}\.{frames}\.conv\.weight", kernel, cells))
        table += conv(rf"{half}\.{after}", f"{half}/next{level}", bias=False)
    return table


def rules() -> list[Rule]:
    """The table."""
    return _half("decoder", DECODER, (1, 22), "grow") + _half("encoder", ENCODER, (0, 17), "pool")


def _is_taehv(keys: frozenset[str], told: Config) -> bool:
    del told
    return {"decoder.19.conv.weight", "encoder.12.conv.weight", "decoder.22.weight"} <= keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    outs = [need(tensors, f"decoder.{i}.weight", "TAEHV").shape[0] for i in (1, 8, 14, 20)]
    overrides = dict(
        widths=tuple(outs),
        latent=need(tensors, "decoder.1.weight", "TAEHV").shape[1],
        encoder_width=need(tensors, "encoder.0.weight", "TAEHV").shape[0],
    )
    return Plan("taehv", rules(), overrides)


register_converter(Converter("taehv", _is_taehv, _plan, "TAEHV, tiny autoencoder of video"))

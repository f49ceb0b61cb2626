"""Lines of converter tables that depth models share: the decoder and the head of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ...layers.streaming import Fields
from ..convert import Plan, Rule, conv2d
from ..encode.vit import ImageViTConfig
from ..rules import dense_rules, nearest_plan
from .decoder import FACTORS


def pointwise(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv2d weight [O, I, 1, 1] -> dense kernel [I, O]."""
    return x[:, :, 0, 0].T


def enlarging(x: np.ndarray) -> np.ndarray:
    """torch.nn.ConvTranspose2d weight [I, O, f, f] -> kernel [f, f, I, O]."""
    return x.transpose(2, 3, 0, 1)


def conv_rules(source: str, target: str, transform=conv2d, bias: bool = True) -> list[Rule]:
    """A convolution: weight and bias -> kernel and bias."""
    rules = [Rule(source + r"\.weight", target + "/kernel", transform)]
    return rules + [Rule(source + r"\.bias", target + "/bias")] * bias


def neck_rules(readout: bool) -> list[Rule]:
    """``neck.*`` of DPT and Depth Anything -> ``neck`` and ``readouts_i``."""
    rules = []
    for i, factor in enumerate(FACTORS):
        stage = rf"neck\.reassemble_stage\.layers\.{i}\."
        rules += conv_rules(stage + "projection", f"neck/project{i}", pointwise)
        if factor != 1:
            move = enlarging if factor > 1 else conv2d
            rules += conv_rules(stage + "resize", f"neck/resize{i}", move)
        rules += conv_rules(rf"neck\.convs\.{i}", f"neck/narrow{i}", bias=False)
        fuse = rf"neck\.fusion_stage\.layers\.{i}\."
        rules += conv_rules(fuse + "projection", f"neck/fuse{i}/out", pointwise)
        for unit in (1, 2) if i else (2,):
            for conv in (1, 2):
                source = fuse + rf"residual_layer{unit}\.convolution{conv}"
                rules += conv_rules(source, f"neck/fuse{i}/unit{unit}/conv{conv}")
        if readout:
            source = rf"neck\.reassemble_stage\.readout_projects\.{i}\.0"
            rules += dense_rules(source, f"readouts_{i}")
    return rules


def head_rules(*names: str) -> list[Rule]:
    """The three layers of a head by their regexes -> ``head``."""
    rules = []
    for i, (name, move) in enumerate(zip(names, (conv2d, conv2d, pointwise), strict=True), start=1):
        rules += conv_rules(name, f"head/conv{i}", move)
    return rules


UNUSED = r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*"  # the deepest merges nothing


def encoder_of(config: ImageViTConfig) -> ImageViTConfig:
    """An image encoder's config as a depth model holds it: at the size of its table, without a
    vector of the whole frame."""
    side = tuple(cells * config.patch for cells in config.table)
    return dataclasses.replace(config, image_size=side, pool="none")


def in_encoder(rules: Sequence[Rule]) -> list[Rule]:
    """The lines of an image encoder, for the one inside a depth model."""
    return [dataclasses.replace(rule, target="encoder/" + rule.target) for rule in rules]


def depth_plan(
    patterns: Sequence[str], fields: Fields, rules: Sequence[Rule], ignore: Sequence[str]
) -> Plan:
    """As ``nearest_plan``; what differs inside the encoder becomes plain data."""
    plan = nearest_plan(patterns, fields, rules, ignore)
    changed = dict(plan.overrides)
    if "encoder" in changed:
        changed["encoder"] = dataclasses.asdict(changed["encoder"])
    return dataclasses.replace(plan, overrides=changed)

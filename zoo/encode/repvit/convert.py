"""Converter table for RepViT checkpoints of timm, alone or as a trunk inside another model.

``repvit-timm`` reads what timm publishes (``timm/repvit_m1.dist_in1k``: ``stages.0.blocks...``) and
the feature extractor's form of it (``stages_0.blocks...``). A model that holds a RepViT uses
:func:`fold` and :func:`rules` with its own prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....layers.streaming import Fields
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
from ..fold import norm_after, norm_before, norm_prefixes, take_norm

Tensors = Mapping[str, np.ndarray]

_STAGE = r"stages[._](?P<stage>\d+)\."


def dense_1x1(x: np.ndarray) -> np.ndarray:
    """1 x 1 convolution weight [O, I, 1, 1] -> Dense kernel [I, O]."""
    return linear(x.reshape(x.shape[:2]))


def fold(tensors: Tensors, prefix: str = "") -> dict[str, np.ndarray]:
    """The tensors with the batch norms and branches of the RepViT under ``prefix`` folded.

    ``X.c`` and ``X.bn`` become ``X``; ``token_mixer.{conv,conv1,bn}`` becomes ``token_mixer``; the
    two classifiers of a distilled model become their mean, ``head``. Others are untouched.

    Raises ConvertError for tensors that are missing.
    """
    left = dict(tensors)
    for norm in norm_prefixes(tensors):
        name = norm.removesuffix(".bn")
        if norm.startswith(prefix) and f"{name}.c.weight" in tensors:
            norm_after(left, f"{name}.c", norm, name)
    mixers = [
        key.removesuffix(".conv.weight")
        for key in left
        if key.startswith(prefix) and key.endswith("token_mixer.conv.weight")
    ]
    for mixer in mixers:
        _fold_mixer(left, mixer)
    heads = [h for h in ("head.head", "head.head_dist") if f"{prefix}{h}.l.weight" in left]
    for head in heads:
        norm_before(left, f"{prefix}{head}.bn", f"{prefix}{head}.l", prefix + head)
    for part in ("weight", "bias") if heads else ():
        both = [left.pop(f"{prefix}{head}.{part}") for head in heads]
        left[f"{prefix}head.{part}"] = np.mean(both, axis=0)
    return left


def _fold_mixer(left: dict[str, np.ndarray], mixer: str) -> None:
    """3 x 3, 1 x 1 and identity per channel, summed, and the norm that some variants put after."""
    wanted = [f"{mixer}.{branch}.{p}" for branch in ("conv", "conv1") for p in ("weight", "bias")]
    missing = [key for key in wanted if key not in left]
    if missing:
        raise ConvertError(f"an incomplete RepViT token mixer: {', '.join(missing)} missing")
    weight, bias, small, small_bias = (np.asarray(left.pop(k), np.float64) for k in wanted)
    middle = weight.shape[-1] // 2
    weight = weight.copy()
    weight[:, :, middle, middle] += small[:, :, 0, 0] + 1.0
    bias = bias + small_bias
    if f"{mixer}.bn.running_mean" in left:
        gain, offset = take_norm(left, f"{mixer}.bn")
        weight, bias = weight * gain[:, None, None, None], bias * gain + offset
    left[f"{mixer}.weight"], left[f"{mixer}.bias"] = weight, bias


def rules(
    depths: Sequence[int], source: str = "", target: str = "", classifier: bool = False
) -> list[Rule]:
    """The table for folded tensors; ``source`` is a regex prefix, ``target`` a path ("a/b/")."""
    table: list[Rule] = []

    def add(theirs: str, ours: str, transform: Any, **fields: Any) -> None:
        theirs, ours = source + theirs, target + ours
        table.append(Rule(theirs + r"\.weight", ours + "/kernel", transform, **fields))
        table.append(Rule(theirs + r"\.bias", ours + "/bias", **fields))

    def block(theirs: str, ours: str, gate: str, **fields: Any) -> None:
        add(theirs + "token_mixer", ours + "/mixer", conv2d, **fields)
        add(theirs + r"channel_mixer\.conv1", ours + "/mlp/up", dense_1x1, **fields)
        add(theirs + r"channel_mixer\.conv2", ours + "/mlp/down", dense_1x1, **fields)
        if gate:
            add(gate + r"se\.fc1", ours + "/gate/down", dense_1x1, **fields)
            add(gate + r"se\.fc2", ours + "/gate/up", dense_1x1, **fields)

    add(r"stem\.conv1", "stem1", conv2d)
    add(r"stem\.conv2", "stem2", conv2d)
    for i, depth in enumerate(depths):
        stage, ours = rf"stages[._]{i}\.", f"stages_{i}/"
        if i:
            down, here = stage + r"downsample\.", ours + "down/"
            block(down + r"pre_block\.", here + "block", "")
            add(down + "spatial_downsample", here + "spatial", conv2d)
            add(down + "channel_downsample", here + "channels", dense_1x1)
            add(down + r"ffn\.conv1", here + "mlp/up", dense_1x1)
            add(down + r"ffn\.conv2", here + "mlp/down", dense_1x1)
        layer = stage + r"blocks\.(?P<layer>\d+)\."
        pairs = dict(stack=depth // 2, period=2)
        block(layer, ours + "blocks/layer{slot}", layer, **pairs)
    if classifier:
        table.append(Rule(source + r"head\.weight", target + "head_kernel", linear))
        table.append(Rule(source + r"head\.bias", target + "head_bias"))
    return table


def sizes(tensors: Tensors, prefix: str = "") -> Fields:
    """The config fields visible in the weights under ``prefix``.

    Raises ConvertError where there is no RepViT.
    """
    blocks: dict[int, int] = {}
    name = re.compile(re.escape(prefix) + _STAGE + r"blocks\.(?P<block>\d+)\..*")
    for key in tensors:
        if match := name.fullmatch(key):
            stage = int(match["stage"])
            blocks[stage] = max(blocks.get(stage, 0), int(match["block"]) + 1)
    join = next((j for j in "._" if any(k.startswith(f"{prefix}stages{j}") for k in tensors)), ".")
    firsts = [f"{prefix}stages{join}{i}.blocks.0.channel_mixer.conv1.c.weight" for i in blocks]
    if sorted(blocks) != list(range(len(blocks))) or not all(key in tensors for key in firsts):
        raise ConvertError(f"no complete RepViT under {prefix!r}: is the file complete?")
    shapes = [tensors[key].shape for key in firsts]
    return {
        "widths": tuple(shape[1] for shape in shapes),
        "depths": tuple(blocks[i] for i in range(len(blocks))),
        "mlp_ratio": shapes[0][0] / shapes[0][1],
    }


def _plan(tensors: Tensors, config: Config) -> Plan:
    fields = sizes(tensors)
    classes = tensors.get("head.head.l.bias")
    fields["num_classes"] = 0 if classes is None else len(classes)
    return Plan(
        "repvit-m1",
        rules(fields["depths"], classifier=classes is not None),
        fields,
        prepare=fold,
    )


def _is_repvit(keys: frozenset[str], config: Config) -> bool:
    ends = "0.blocks.0.token_mixer.conv.c.weight"
    return f"stages.{ends}" in keys or f"stages_{ends}" in keys


register_converter(
    Converter("repvit-timm", _is_repvit, _plan, "RepViT image encoders as timm publishes them")
)

"""Converter tables for the ConvNeXt checkpoints of DINOv3 and EUPE: two layouts, one target.

- ``convnext-transformers``: what transformers saves (``DINOv3ConvNextModel``) and the hub holds;
- ``convnext-meta``: the names of the research code. Its files are pickles, which are refused here:
  read the state dict once with torch's weights-only loader and save it as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import pair, settings
from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    Transform,
    conv2d,
    linear,
    register_converter,
)

Tensors = Mapping[str, np.ndarray]

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
SIZES = {
    "t": dict(widths=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
    "s": dict(widths=(96, 192, 384, 768), depths=(3, 3, 27, 3)),
    "b": dict(widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
}


def patch_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv2d weight [O, I, p, p] of stride p -> dense kernel [p * p * I, O]."""
    return conv2d(x).reshape(-1, x.shape[0])


# part of a block -> (theirs in transformers, theirs in the research code)
_NAMES = {
    "mixer": ("depthwise_conv", "dwconv"),
    "norm": ("layer_norm", "norm"),
    "mlp/up": ("pointwise_conv1", "pwconv1"),
    "mlp/down": ("pointwise_conv2", "pwconv2"),
}


def _rules(depths: tuple[int, ...], meta: bool) -> list[Rule]:
    table: list[Rule] = []

    def add(theirs: str, ours: str, leaf: str, transform: Transform | None, stack=None) -> None:
        weight = f"{ours}/{leaf}"
        fields: Any = {} if transform is None else {"transform": transform}
        table.append(Rule(theirs + r"\.weight", weight, stack=stack, **fields))
        table.append(Rule(theirs + r"\.bias", ours + "/bias", stack=stack))

    for i, depth in enumerate(depths):
        down = rf"downsample_layers\.{i}\." if meta else rf"stages\.{i}\.downsample_layers\."
        conv, norm = ("1", "0") if i else ("0", "1")
        add(down + conv, f"stages_{i}/down", "kernel", patch_kernel)
        add(down + norm, f"stages_{i}/norm", "scale", None)
        layer = rf"stages\.{i}\." + ("" if meta else r"layers\.") + r"(?P<layer>\d+)\."
        block = f"stages_{i}/blocks/"
        for ours, names in _NAMES.items():
            leaf = "scale" if ours == "norm" else "kernel"
            change = {"norm": None, "mixer": conv2d}.get(ours, linear)
            add(layer + names[meta], block + ours, leaf, change, depth)
        table.append(Rule(layer + "gamma", block + "scale/gain", stack=depth))
    add("norm" if meta else "layer_norm", "norm", "scale", None)
    return table


def _sizes(tensors: Tensors, gamma: str) -> Fields:
    """Widths and depths, from the gains of the blocks; ``gamma`` a regex with stage and layer."""
    blocks: dict[int, int] = {}
    widths: dict[int, int] = {}
    for key, value in tensors.items():
        if match := re.fullmatch(gamma, key):
            stage = int(match["stage"])
            blocks[stage] = max(blocks.get(stage, 0), int(match["layer"]) + 1)
            widths[stage] = value.shape[0]
    if sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise ConvertError("a ConvNeXt checkpoint without some of its stages: is it complete?")
    stages = range(len(blocks))
    return {"widths": tuple(widths[i] for i in stages), "depths": tuple(blocks[i] for i in stages)}


def _model(sizes: Mapping[str, Any]) -> str:
    """The name of these shapes, or of size t where none has them (the overrides tell)."""
    return "dinov3-convnext-" + next((n for n, s in SIZES.items() if s == sizes), "t")


CONVNEXT = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 224}


def _plan_transformers(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "ConvNeXt", CONVNEXT)
    sizes = _sizes(tensors, r"stages\.(?P<stage>\d+)\.layers\.(?P<layer>\d+)\.gamma")
    shown.agree(hidden_sizes=sizes["widths"], depths=sizes["depths"])
    activation = shown["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ConvertError(f"hidden_act {activation!r}: not one of {', '.join(_ACTIVATIONS)}")
    fields = {
        **sizes,
        "activation": _ACTIVATIONS[activation],
        "eps": shown["layer_norm_eps"],
        "image_size": pair(shown["image_size"]),
    }
    return Plan(_model(sizes), _rules(sizes["depths"], meta=False), fields)


def _plan_meta(tensors: Tensors, config: Config) -> Plan:
    sizes = _sizes(tensors, r"stages\.(?P<stage>\d+)\.(?P<layer>\d+)\.gamma")
    # the last of ``norms`` is ``norm`` under a second name
    return Plan(
        _model(sizes), _rules(sizes["depths"], meta=True), sizes, ignore=(r"norms\.\d+\..*",)
    )


def _is_transformers(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "dinov3_convnext") != "dinov3_convnext":
        return False
    return {"stages.0.layers.0.depthwise_conv.weight", "layer_norm.weight"} <= keys


def _is_meta(keys: frozenset[str], config: Config) -> bool:
    return {"stages.0.0.dwconv.weight", "stages.0.0.gamma", "norm.weight"} <= keys


register_converter(
    Converter(
        "convnext-transformers",
        _is_transformers,
        _plan_transformers,
        "ConvNeXt of DINOv3 or EUPE as transformers saves it",
    )
)
register_converter(
    Converter(
        "convnext-meta", _is_meta, _plan_meta, "ConvNeXt of DINOv3 or EUPE, research code's names"
    )
)

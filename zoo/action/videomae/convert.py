"""Converter tables for VideoMAE checkpoints: two layouts, one target.

- ``videomae-transformers``: what ``save_pretrained`` of transformers writes and the hub holds
  (``VideoMAEModel``, ``ForVideoClassification``, ``ForPreTraining`` without its decoder);
- ``videomae-ava``: the action-detection fine-tunes of Tong et al. (github.com/MCG-NJU/
  VideoMAE-Action-Detection). They are published as pickles, which are refused here: read the
  state dict under ``model`` once with torch's weights-only loader and save it as safetensors.

Neither has a key bias (queries and values only): the fused bias gets zeros there. Neither file
holds the position table, which is a fixed sinusoid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ... import registry
from ...config_json import pair, settings
from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv3d,
    linear,
    register_converter,
    then_zeros,
)
from ..sizes import SIZES

Tensors = Mapping[str, np.ndarray]

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def tubelet_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv3d weight [O, 3, t, p, p] -> dense kernel [t * p * p * 3, O]."""
    return conv3d(x).reshape(-1, x.shape[0])


def _norm(source: str, target: str, stack: int | None = None) -> list[Rule]:
    return [
        Rule(source + r"\.weight", target + "/scale", stack=stack),
        Rule(source + r"\.bias", target + "/bias", stack=stack),
    ]


def _dense(source: str, target: str, stack: int | None = None) -> list[Rule]:
    return [
        Rule(source + r"\.weight", target + "/kernel", linear, stack=stack),
        Rule(source + r"\.bias", target + "/bias", stack=stack),
    ]


def _query_and_value_bias(source: str, target: str, stack: int) -> list[Rule]:
    return [
        Rule(source + r"q_bias", target, then_zeros, stack=stack, part=(0, 2)),
        Rule(source + r"v_bias", target, stack=stack, part=(1, 2)),
    ]


def _patches(source: str) -> list[Rule]:
    return [
        Rule(source + r"\.weight", "patch_embed/kernel", tubelet_kernel),
        Rule(source + r"\.bias", "patch_embed/bias"),
    ]


def transformers_rules(depth: int, prefix: str, final_norm: bool, classifier: bool) -> list[Rule]:
    """The table of transformers' layout; ``prefix`` is a regex, "" or r"videomae\\."."""
    layer = prefix + r"encoder\.layer\.(?P<layer>\d+)\."
    block = "blocks/layer0/"
    rules = _patches(prefix + r"embeddings\.patch_embeddings\.projection")
    for part, name in enumerate(("query", "key", "value")):
        source = layer + rf"attention\.attention\.{name}\.weight"
        target = block + "attn/qkv/kernel"
        rules.append(Rule(source, target, linear, stack=depth, part=(part, 3)))
    bias = block + "attn/qkv/bias"
    rules += _query_and_value_bias(layer + r"attention\.attention\.", bias, depth)
    rules += _dense(layer + r"attention\.output\.dense", block + "attn/out", depth)
    rules += _dense(layer + r"intermediate\.dense", block + "mlp/up", depth)
    rules += _dense(layer + r"output\.dense", block + "mlp/down", depth)
    rules += _norm(layer + "layernorm_before", block + "norm1", depth)
    rules += _norm(layer + "layernorm_after", block + "norm2", depth)
    if final_norm:
        rules += _norm(prefix + "layernorm", "norm")
    if classifier:
        rules += _norm("fc_norm", "fc_norm") + _dense("classifier", "head")
    return rules


def ava_rules(depth: int) -> list[Rule]:
    """The table of the action-detection fine-tunes."""
    layer = r"blocks\.(?P<layer>\d+)\."
    block = "blocks/layer0/"
    rules = _patches(r"patch_embed\.proj")
    rules.append(Rule(layer + r"attn\.qkv\.weight", block + "attn/qkv/kernel", linear, stack=depth))
    rules += _query_and_value_bias(layer + r"attn\.", block + "attn/qkv/bias", depth)
    rules += _dense(layer + r"attn\.proj", block + "attn/out", depth)
    rules += _dense(layer + r"mlp\.fc1", block + "mlp/up", depth)
    rules += _dense(layer + r"mlp\.fc2", block + "mlp/down", depth)
    rules += _norm(layer + "norm1", block + "norm1", depth)
    rules += _norm(layer + "norm2", block + "norm2", depth)
    return rules + _norm("norm", "norm") + _dense("head", "head")


def _need(tensors: Tensors, key: str) -> np.ndarray:
    if key not in tensors:
        raise ConvertError(f"a VideoMAE checkpoint without {key}: is the file complete?")
    return tensors[key]


def _depth(tensors: Tensors, prefix: str) -> int:
    """The number of blocks, from keys such as prefix + "11.…" (a gap is reported later)."""
    found = {k[len(prefix) :].split(".", 1)[0] for k in tensors if k.startswith(prefix)}
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)


def _shapes(
    tensors: Tensors, projection: str, hidden: str, depth: int, heads: int | None = None
) -> Fields:
    """The config fields that are visible in the weights; ``heads`` if a config tells them."""
    dim, _, tubelet, patch, _ = _need(tensors, projection).shape
    if heads is None:
        # the published fine-tunes come without a config.json, in these sizes
        heads = {(s.dim, s.depth): s.heads for s in SIZES.values()}.get((dim, depth))
    if heads is None:
        raise ConvertError(
            f"the weights of width {dim} and {depth} blocks are no published size, and do not tell"
            " the number of attention heads: is the file complete? If it is, put the checkpoint's"
            " config.json beside it"
        )
    return {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": _need(tensors, hidden).shape[0] / dim,
        "patch": patch,
        "tubelet": tubelet,
    }


def _model(shapes: Mapping[str, Any], tag: str = "") -> str:
    """The name of these shapes, or of size s where none has them (the overrides tell)."""
    for name, size in SIZES.items():
        same = (size.dim, size.depth) == (shapes["dim"], shapes["depth"])
        if same and registry.is_registered(f"videomae-{name}16{tag}"):
            return f"videomae-{name}16{tag}"
    return "videomae-s16"


VIDEOMAE = {
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "num_frames": 16,
}


def _plan_transformers(tensors: Tensors, config: Config) -> Plan:
    shown = settings(config, "VideoMAE", VIDEOMAE)
    prefix = "videomae." if any(k.startswith("videomae.") for k in tensors) else ""
    layers = prefix + "encoder.layer."
    depth = _depth(tensors, layers)
    projection = prefix + "embeddings.patch_embeddings.projection.weight"
    final_norm = prefix + "layernorm.weight" in tensors
    classifier = "classifier.weight" in tensors
    if classifier and "fc_norm.weight" not in tensors:
        raise ConvertError(
            "this VideoMAE classifier reads the first token (use_mean_pooling is false); "
            "only the mean over tokens is supported"
        )
    activation = shown["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ConvertError(f"hidden_act {activation!r}: not one of {', '.join(_ACTIVATIONS)}")
    hidden = layers + "0.intermediate.dense.weight"
    shapes = _shapes(tensors, projection, hidden, depth, shown["num_attention_heads"])
    shown.heads(shapes["dim"])
    shown.agree(
        hidden_size=shapes["dim"],
        num_hidden_layers=depth,
        intermediate_size=round(shapes["mlp_ratio"] * shapes["dim"]),
        patch_size=shapes["patch"],
        tubelet_size=shapes["tubelet"],
    )
    overrides = {
        **shapes,
        "activation": _ACTIVATIONS[activation],
        "image_size": pair(shown["image_size"]),
        "frames": shown["num_frames"],
        "eps": shown["layer_norm_eps"],
        "final_norm": final_norm,
        "head": "frame" if classifier else "none",
        "head_eps": 1e-5,  # that norm takes torch's default, not the config's
    }
    if classifier:
        overrides["num_classes"] = tensors["classifier.weight"].shape[0]
    rules = transformers_rules(depth, prefix.replace(".", r"\."), final_norm, classifier)
    decoder = (r"decoder\..*", r"encoder_to_decoder\.weight", "mask_token")
    return Plan(_model(shapes), rules, overrides, ignore=decoder)


def _plan_ava(tensors: Tensors, config: Config) -> Plan:
    depth = _depth(tensors, "blocks.")
    heads = (config or {}).get("num_attention_heads")  # published sizes need no config
    hidden = "blocks.0.mlp.fc1.weight"
    shapes = _shapes(tensors, "patch_embed.proj.weight", hidden, depth, heads)
    overrides = {
        **shapes,
        "activation": "gelu",
        "image_size": (224, 224),
        "frames": 16,
        "eps": 1e-6,
        "final_norm": True,
        "head": "roi",
        "num_classes": _need(tensors, "head.weight").shape[0],
        "roi_size": 7,
        "roi_sampling": 0,
        "roi_aligned": False,
        "roi_grow": (0.1, 0.05),
    }
    return Plan(_model(shapes, "/ava"), ava_rules(depth), overrides)


def _is_transformers(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "videomae") != "videomae":
        return False
    layer = "encoder.layer.0.attention.attention.q_bias"
    return layer in keys or f"videomae.{layer}" in keys


def _is_ava(keys: frozenset[str], config: Config) -> bool:
    return {"blocks.0.attn.q_bias", "patch_embed.proj.weight", "norm.weight"} <= keys


register_converter(
    Converter(
        "videomae-transformers",
        _is_transformers,
        _plan_transformers,
        "VideoMAE as transformers saves it: encoder, classifier or pre-training model",
    )
)
register_converter(
    Converter(
        "videomae-ava",
        _is_ava,
        _plan_ava,
        "VideoMAE action-detection fine-tunes on AVA, S to H, 16 frames at stride 4",
    )
)

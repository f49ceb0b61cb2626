"""Converter table of EdgeTAM on video in transformers' layout: SAM 2's, RepViT, a perceiver."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import Config, Converter, Plan, Rule, linear, register_converter
from ...encode.repvit import convert as repvit
from ..checkpoint import depth_of, need
from ..rules import norm, weighted
from ..sam2.convert import sam2_rules
from ..sam2video.convert import IGNORED, is_of, memory_rules, tracker_overrides

Tensors = Mapping[str, np.ndarray]

REPVIT = "vision_encoder.backbone.timm_model."


def perceiver_rules() -> list[Rule]:
    """EdgeTAM's perceiver; its layers have no biases but in the norms."""
    source, target = r"spatial_perceiver\.", "perceiver/"
    layer, ours = source + r"layers\.(?P<n>\d+)\.", target + "layer{n}/"
    rules = [
        Rule(source + "latents_1d", target + "latents"),
        Rule(source + "latents_2d", target + "spatial"),
        *norm(source + "layer_norm", target + "norm"),
        *norm(layer + "layer_norm_input", ours + "norm_tokens"),
        *norm(layer + "layer_norm_latents", ours + "norm_latents"),
        *norm(layer + "layer_norm_self", ours + "norm_self"),
    ]
    for theirs, mine in (("cross_attention", "cross"), ("self_attention", "within")):
        for name, part in zip(("q", "k", "v", "o"), ("q", "k", "v", "out"), strict=False):
            path = f"{ours}{mine}/{part}"
            rules += weighted(rf"{layer}{theirs}\.{name}_proj", path, linear, bias=False)
    for theirs, mine in (("mlp", "mlp"), ("self_mlp", "mlp_self")):
        rules += norm(rf"{layer}{theirs}\.layer_norm", f"{ours}{mine}/norm")
        for part in ("up", "down"):
            path = f"{ours}{mine}/{part}"
            rules += weighted(rf"{layer}{theirs}\.{part}_proj", path, linear, bias=False)
    return rules


def _plan_edgetam(tensors: Tensors, config: Config) -> Plan:
    trunk = repvit.sizes(tensors, REPVIT)
    given = settings(config, "EdgeTAM", {"perceiver_resampler_num_attention_heads": 1})
    fields: Fields = {"trunk": trunk, **tracker_overrides(tensors, config)}
    source = "spatial_perceiver."
    side = int(need(tensors, source + "latents_2d").shape[0] ** 0.5)
    q = need(tensors, source + "layers.0.cross_attention.q_proj.weight")
    heads = given.heads(q.shape[0], "perceiver_resampler_num_attention_heads")
    given.agree(perceiver_resampler_num_layers=depth_of(tensors, source + "layers."))
    fields["perceiver"] = {
        "latents": need(tensors, source + "latents_1d").shape[0],
        "grid": (side, side),
        "heads": heads,
        "head": q.shape[0] // heads,
        "hidden": need(tensors, source + "layers.0.mlp.up_proj.weight").shape[0],
        "depth": depth_of(tensors, source + "layers."),
    }
    body = repvit.rules(trunk["depths"], REPVIT.replace(".", r"\."), "image_encoder/trunk/")
    rules, ignore = sam2_rules(tensors, body)
    rules = [
        *rules,
        *memory_rules(tensors, fields, ("mlp.up_proj", "mlp.down_proj")),
        *perceiver_rules(),
    ]
    return Plan(
        "edgetam-m1",
        rules,
        fields,
        ignore=(*ignore, *IGNORED),
        prepare=lambda t: repvit.fold(t, REPVIT),
    )


register_converter(
    Converter(
        "edgetam-video-transformers",
        is_of("edgetam_video", "spatial_perceiver.latents_2d"),
        _plan_edgetam,
        "EdgeTAM on video, as transformers saves it",
    )
)

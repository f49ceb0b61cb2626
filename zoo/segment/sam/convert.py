"""Converter table of SAM in transformers' layout, ``SamModel``.

What the weights show is read from their shapes and compared with the config.json, which alone tells
heads, windows, activations and epsilons.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import Config, Converter, Plan, Rule, register_converter, squeeze0
from ..checkpoint import (
    DECODER,
    activation,
    decoder_overrides,
    depth_of,
    need,
    prompt_settings,
)
from ..rules import SAM, conv, decoder_rules, dense, norm, one_frequencies, prompt_rules
from ..sizes import SAM_SIZES
from ..window_vit import WindowVitConfig

Tensors = Mapping[str, np.ndarray]


def vit_rules(
    depth: int,
    period: int,
    relative: bool,
    source: str = r"vision_encoder\.",
    target: str = "image_encoder/",
) -> list[Rule]:
    """SAM's image encoder."""
    layer = source + r"layers\.(?P<layer>\d+)\."
    block = target + "trunk/blocks/layer{slot}/"
    stack: Fields = dict(stack=depth // period, period=period)
    rules = [
        *conv(source + r"patch_embed\.projection", target + "trunk/patch_embed"),
        Rule(source + "pos_embed", target + "trunk/positions", squeeze0),
        *norm(layer + "layer_norm1", block + "norm1", **stack),
        *norm(layer + "layer_norm2", block + "norm2", **stack),
        *dense(layer + r"attn\.qkv", block + "attn/qkv", **stack),
        *dense(layer + r"attn\.proj", block + "attn/out", **stack),
        *dense(layer + r"mlp\.lin1", block + "mlp/up", **stack),
        *dense(layer + r"mlp\.lin2", block + "mlp/down", **stack),
    ]
    if relative:
        for name, axis in (("rows", "h"), ("cols", "w")):
            path = f"{block}attn/relative_{name}"
            rules.append(Rule(rf"{layer}attn\.rel_pos_{axis}", path, **stack))
    for i in (1, 2):
        rules += conv(rf"{source}neck\.conv{i}", f"{target}neck/conv{i}", bias=False)
        rules += norm(rf"{source}neck\.layer_norm{i}", f"{target}neck/norm{i}")
    return rules


VISION = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
}


def _vit(tensors: Tensors, config: Config) -> Fields:
    """Fields of the trunk's config."""
    given = settings(config, "SAM", VISION, "vision_config")
    dim, _, patch, _ = need(tensors, "vision_encoder.patch_embed.projection.weight").shape
    grid = need(tensors, "vision_encoder.pos_embed").shape[1:3]
    depth = depth_of(tensors, "vision_encoder.layers.")
    tables = [tensors.get(f"vision_encoder.layers.{i}.attn.rel_pos_h") for i in range(depth)]
    given.agree(
        hidden_size=dim, num_hidden_layers=depth, patch_size=patch, image_size=grid[0] * patch,
        use_rel_pos=tables[0] is not None,
    )  # fmt: skip
    if all(table is not None for table in tables):
        sides = [(table.shape[0] + 1) // 2 for table in tables if table is not None]
        heads = dim // tables[0].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
        window = min(sides)
        globally = [i for i, side in enumerate(sides) if side == grid[0]]
        given.agree(num_attention_heads=heads)
    else:  # without relative positions the weights do not tell
        heads, window = given.heads(dim), given["window_size"]
        globally = given["global_attn_indexes"]
    return {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": need(tensors, "vision_encoder.layers.0.mlp.lin1.weight").shape[0] / dim,
        "patch": patch,
        "image_size": (grid[0] * patch, grid[1] * patch),
        "window": window,
        "global_blocks": tuple(globally),
        "relative": tables[0] is not None,
        "position_grid": tuple(grid),
        "activation": activation(given),
        "eps": given["layer_norm_eps"],
    }


def _plan_sam(tensors: Tensors, config: Config) -> Plan:
    trunk = _vit(tensors, config)
    given = settings(config, "mask decoder", DECODER, "mask_decoder_config")
    eps = given["layer_norm_eps"]
    decoder = decoder_overrides(tensors, config, activation=activation(given), eps=eps)
    key, others = one_frequencies(
        tensors,
        (
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.shared_embedding.positional_embedding",
        ),
    )
    overrides = {
        "trunk": trunk,
        "decoder": decoder,
        "mask_channels": need(tensors, "prompt_encoder.mask_embed.conv2.weight").shape[0],
        "prompt_eps": prompt_settings(config)["layer_norm_eps"],
    }
    period = len(WindowVitConfig(**trunk).windows())
    rules = [
        *vit_rules(trunk["depth"], period, trunk["relative"]),
        *prompt_rules(SAM, frequencies=key),
        *decoder_rules(
            SAM,
            masks=decoder["multimasks"] + 1,
            iou_depth=decoder["iou_depth"],
            object_score=False,
            skips=False,
        ),
    ]
    shape = (trunk["dim"], trunk["depth"])
    sizes = {(size.dim, size.depth): name for name, size in SAM_SIZES.items()}
    return Plan(f"sam-{sizes.get(shape, 'b16')}", rules, overrides, ignore=others)


def _is_sam(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "sam") != "sam":
        return False
    return {"vision_encoder.layers.0.attn.qkv.weight", "mask_decoder.mask_tokens.weight"} <= keys


register_converter(
    Converter(
        "sam-transformers",
        _is_sam,
        _plan_sam,
        "SAM as transformers saves it, sizes B, L and H",
    )
)

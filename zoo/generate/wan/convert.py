"""Wan 2.1 checkpoints -> our parameters: diffusers' names, the authors' own, Self-Forcing's files.

Self-Forcing, LongLive and their kin publish the authors' names under ``generator`` or
``generator_ema``, each behind ``model.`` and sometimes behind ``_fsdp_wrapped_module.``; of both
sets the averaged one is read. Their ``.pt`` files are pickles, which are never read: they are
rewritten as safetensors first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...convert import Converter, ConvertError, Plan, Rule, conv3d, linear, register_converter
from ...rules import dense_rules, depth_of, nearest_plan, need, norm_rules

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any] | None
# our part -> (the authors' name, diffusers' name)
OUTSIDE = {
    "time_in": ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    "time_out": ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    "time_blocks": ("time_projection.1", "condition_embedder.time_proj"),
    "text_in": ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    "text_out": ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    "head": ("head.head", "proj_out"),
}
# "norm2" and "norm3" changed their places between the two
INSIDE = {
    "self": ("self_attn.", "attn1."),
    "cross": ("cross_attn.", "attn2."),
    "norm_cross": ("norm3", "norm2"),
    "up": ("ffn.0", "ffn.net.0.proj"),
    "down": ("ffn.2", "ffn.net.2"),
}
PARTS = {"q": ("q", "to_q"), "k": ("k", "to_k"), "v": ("v", "to_v"), "o": ("o", "to_out.0")}
TABLES = (("head.modulation", "modulation"), ("scale_shift_table", "scale_shift_table"))
LAYER = r"blocks\.(?P<layer>\d+)\."
_WRAPPED = re.compile(r"(?:(?P<set>generator_ema|generator|critic)\.)?(?:model\.)?(?P<key>.+)")


def halves(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Output channels [..., heads * Dh] whose pairs are (2i, 2i + 1), so that they are (i, i + Dh /
    2), as our rotary turn has them."""

    def in_halves(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(*x.shape[:-1], heads, -1, 2)
        return pairs.swapaxes(-1, -2).reshape(x.shape)

    return in_halves


def rules(depth: int, heads: int, diffusers: bool) -> list[Rule]:
    """The table of one of the two namings."""
    of = int(diffusers)
    named = lambda table, part: re.escape(table[part][of])
    turn = halves(heads)
    turned_linear = lambda x: turn(linear(x))
    block = "blocks/layer0/"
    table = [
        # [O, C, 1, p, p] -> [p * p * C, O]
        Rule(r"patch_embedding\.weight", "patches/kernel", _patch_kernel),
        Rule(r"patch_embedding\.bias", "patches/bias"),
        Rule(re.escape(TABLES[of][0]), "modulation", _first),
        Rule(LAYER + TABLES[of][1], block + "modulation", _first, stack=depth),
    ]
    for part in OUTSIDE:
        table += dense_rules(named(OUTSIDE, part), part)
    table += norm_rules(LAYER + named(INSIDE, "norm_cross"), block + "norm_cross", depth)
    for part in ("up", "down"):
        table += dense_rules(LAYER + named(INSIDE, part), block + "mlp/" + part, depth)
    inside, across = (LAYER + named(INSIDE, part) for part in ("self", "cross"))
    table += dense_rules(inside + named(PARTS, "o"), block + "attn/out", depth)
    for number, part in enumerate("qkv"):
        source, place = inside + named(PARTS, part), (number, 3)
        kernel, bias = block + "attn/qkv/kernel", block + "attn/qkv/bias"
        turns = part != "v"
        table += [
            Rule(source + r"\.weight", kernel, turned_linear if turns else linear, depth,
                 part=place),
            Rule(source + r"\.bias", bias, turn if turns else _same, depth, part=place),
        ]  # fmt: skip
    for part, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
        table += dense_rules(across + named(PARTS, part), block + "cross/" + ours, depth)
    for part, ours in (("norm_q", "query_norm"), ("norm_k", "key_norm")):
        table.append(Rule(inside + part + r"\.weight", block + f"attn/{ours}/scale", turn, depth))
        table.append(Rule(across + part + r"\.weight", block + f"cross/{ours}/scale", stack=depth))
    return table


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _first(x: np.ndarray) -> np.ndarray:
    return x.squeeze(0)


def _patch_kernel(x: np.ndarray) -> np.ndarray:
    """[O, C, 1, p, p] -> [p * p * C, O]."""
    return conv3d(x).reshape(-1, x.shape[0])


def unwrapped(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors of one network, without the names of what it was wrapped in while it trained."""
    sets: dict[str, dict[str, np.ndarray]] = {}
    for key in tensors:
        found = _WRAPPED.fullmatch(key.replace("_fsdp_wrapped_module.", ""))
        assert found is not None
        sets.setdefault(found["set"] or "", {})[found["key"]] = tensors[key]
    for name in ("generator_ema", "generator", ""):
        if "patch_embedding.weight" in sets.get(name, {}):
            return sets[name]
    return dict(tensors)


def config_of(tensors: Tensors, told: Config, diffusers: bool) -> Fields:
    """The fields of our config. Raises ConvertError for a kind of Wan that we lack."""
    kernel = need(tensors, "patch_embedding.weight", "Wan")
    up = "blocks.0." + INSIDE["up"][diffusers] + ".weight"
    dim, channels, deep, patch, across = kernel.shape
    out = need(tensors, OUTSIDE["head"][diffusers] + ".weight", "Wan").shape[0]
    if any("img_emb" in key or "add_k_proj" in key or "image_embedder" in key for key in tensors):
        raise ConvertError("a Wan that reads a picture (i2v) is not known; the text-to-video ones")
    if deep != 1 or patch != across or out != channels * patch * patch:
        raise ConvertError(f"a Wan of patches {deep}x{patch}x{across}, {channels} channels, {out}")
    said = told or {}
    # published heads are 128 wide; another width is told by config.json
    heads = said.get("num_attention_heads", said.get("num_heads", dim // 128))
    if not heads or dim % heads:
        raise ConvertError(f"a Wan of width {dim} and {heads} heads: config.json tells the heads")
    return dict(
        channels=channels,
        patch=patch,
        dim=dim,
        hidden=need(tensors, up, "Wan").shape[0],
        depth=depth_of(tensors, "blocks."),
        heads=heads,
        frequencies=need(tensors, OUTSIDE["time_in"][diffusers] + ".weight", "Wan").shape[1],
        text_dim=need(tensors, OUTSIDE["text_in"][diffusers] + ".weight", "Wan").shape[1],
        eps=float(said.get("eps", 1e-6)),
    )


def _is_wan(keys: frozenset[str], told: Config) -> bool:
    plain = {key.rpartition("blocks.0.")[2] for key in keys}
    return any(key.endswith("patch_embedding.weight") for key in keys) and (
        "self_attn.norm_q.weight" in plain or "attn1.norm_q.weight" in plain
    )


def _plan(tensors: Tensors, told: Config) -> Plan:
    own = unwrapped(tensors)
    diffusers = "scale_shift_table" in own
    fields = config_of(own, told, diffusers)
    table = rules(fields["depth"], fields["heads"], diffusers)
    ignore = (r".*\.freqs", r"rope\..*")
    return nearest_plan(("wan*",), fields, table, ignore, prepare=unwrapped)


register_converter(
    Converter(
        "wan",
        _is_wan,
        _plan,
        "Wan 2.1 text-to-video: diffusers' names, the authors' own, and Self-Forcing's files",
    )
)

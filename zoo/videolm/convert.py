"""Published video language models -> our configs and tables of rules.

The layouts are those of ``save_pretrained`` of transformers 5.24.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...layers.streaming import Fields
from ..convert import ConvertError, Rule, linear
from ..encode.clip.convert import block_rules
from ..encode.vit import ImageViTConfig
from ..rules import dense_rules, norm_rules, patch_kernel
from ..text.decoder.convert import config_of
from ..text.decoder.convert import rules as decoder_rules
from ..text.decoder.model import DecoderConfig
from .model import VideoLMConfig
from .qwen_vision import QwenVisionConfig, qwen_patch_kernel

Tensors = Mapping[str, np.ndarray]
# model_type -> where the language model and its head stand, and of which family it is
LAYOUTS = {
    "qwen2_5_vl": ("model.", "lm_head", "qwen2"),
    "qwen3_vl": ("model.language_model.", "lm_head", "qwen3"),
    "llava_onevision": ("language_model.model.", "language_model.lm_head", "qwen2"),
    "smolvlm": ("model.text_model.", "lm_head", "llama"),
}


def plan_of(
    tensors: Tensors, told: Mapping[str, Any], **decoder: Any
) -> tuple[VideoLMConfig, list[Rule]]:
    """The config and the table of a checkpoint.

    Args:
      tensors: of the files.
      told: config.json.
      decoder: fields of the decoder's config that a file does not tell (``context``, ``policy``).

    Raises:
      ConvertError: a family that is not known.
    """
    family = told.get("model_type", "")
    if family not in LAYOUTS:
        raise ConvertError(f"a video language model {family!r}; known: {', '.join(LAYOUTS)}")
    at, head, text = LAYOUTS[family]
    said = {**told["text_config"], "model_type": text}
    # the flag stands at the top of the published files, where it is left out for the default
    said["tie_word_embeddings"] = bool(told.get("tie_word_embeddings", False))
    own = {k: v for k, v in tensors.items() if k.startswith(at)}
    if f"{head}.weight" in tensors:
        own["lm_head.weight"] = tensors[f"{head}.weight"]
    fields = config_of(said, own, at)
    table = [
        dataclasses.replace(rule, target=f"decoder/{rule.target}")
        for rule in decoder_rules(
            fields["depth"], bool(fields["biased"]), fields["normed"], fields["tied"],
            at.replace(".", r"\."),
        )
    ]  # fmt: skip
    if head != "lm_head":
        table = [
            dataclasses.replace(rule, pattern=head.replace(".", r"\.") + r"\.weight")
            if rule.pattern.startswith("lm_head")
            else rule
            for rule in table
        ]
    vision, more, connector = VISIONS[family](tensors, told["vision_config"])
    config = VideoLMConfig(
        vision, DecoderConfig(**{**fields, **decoder}), connector,
        factor=told.get("scale_factor", 4),
    )  # fmt: skip
    return config, table + more


def _qwen(tensors: Tensors, said: Mapping[str, Any], at: str, modern: bool):
    regex, layer = at.replace(".", r"\."), at.replace(".", r"\.") + r"blocks\.(?P<layer>\d+)\."
    depth, patch = said["depth"], said["patch_size"]
    common: Fields = dict(
        dim=said["hidden_size"], hidden=said["intermediate_size"], depth=depth,
        heads=said["num_heads"], out=said["out_hidden_size"], patch=patch,
    )  # fmt: skip
    ours = "vision/layers/block/"
    table = [
        Rule(regex + r"patch_embed\.proj\.weight", "vision/patch_embed/kernel", qwen_patch_kernel)
    ]
    table += dense_rules(layer + r"attn\.qkv", ours + "attn/qkv", depth)
    table += dense_rules(layer + r"attn\.proj", ours + "attn/out", depth)
    if modern:
        fields: Fields = common | dict(
            window=0, whole=(), modern=True, taps=tuple(said["deepstack_visual_indexes"]),
            table=round(said["num_position_embeddings"] ** 0.5),
        )  # fmt: skip
        table += [
            Rule(regex + r"patch_embed\.proj\.bias", "vision/patch_embed/bias"),
            Rule(regex + r"pos_embed\.weight", "vision/positions"),
            *norm_rules(layer + "norm1", ours + "norm1", depth),
            *norm_rules(layer + "norm2", ours + "norm2", depth),
            *dense_rules(layer + r"mlp\.linear_fc1", ours + "mlp/up", depth),
            *dense_rules(layer + r"mlp\.linear_fc2", ours + "mlp/down", depth),
            *_merger(regex + r"merger\.", "vision/merger/", modern=True),
        ]
        for number in range(len(fields["taps"])):
            key = regex + rf"deepstack_merger_list\.{number}\."
            table += _merger(key, f"vision/deep_{number}/", modern=True)
        return QwenVisionConfig(**fields), table, "qwen"
    side = said["window_size"] // said["spatial_merge_size"] // patch
    older: Fields = common | dict(window=side, whole=tuple(said["fullatt_block_indexes"]))
    for name in ("norm1", "norm2"):
        table.append(Rule(layer + name + r"\.weight", f"{ours}{name}/scale", stack=depth))
    for name in ("gate", "up", "down"):
        table += dense_rules(layer + rf"mlp\.{name}_proj", f"{ours}mlp/{name}", depth)
    table += _merger(regex + r"merger\.", "vision/merger/", modern=False)
    return QwenVisionConfig(**older), table, "qwen"


def _merger(key: str, ours: str, modern: bool) -> list[Rule]:
    if modern:
        norm = norm_rules(key + "norm", ours + "LayerNorm_0")
        first, second = r"linear_fc1", r"linear_fc2"
    else:
        norm = [Rule(key + r"ln_q\.weight", ours + "RMSNorm_0/scale")]
        first, second = r"mlp\.0", r"mlp\.2"
    return norm + dense_rules(key + first, ours + "up") + dense_rules(key + second, ours + "down")


def _vit(said: Mapping[str, Any], final: str) -> ImageViTConfig:
    size = said["image_size"]
    return ImageViTConfig(
        image_size=(size, size), patch=said["patch_size"], dim=said["hidden_size"],
        depth=said["num_hidden_layers"], heads=said["num_attention_heads"],
        mlp_ratio=said["intermediate_size"] / said["hidden_size"], activation="gelu_tanh",
        eps=said["layer_norm_eps"], class_tokens=0, class_position=False, pool="none",
        final_norm=final, ragged=True,
    )  # fmt: skip


def _vit_rules(regex: str, depth: int) -> list[Rule]:
    table = [
        Rule(regex + r"embeddings\.patch_embedding\.weight", "patch_embed/kernel", patch_kernel),
        Rule(regex + r"embeddings\.patch_embedding\.bias", "patch_embed/bias"),
        Rule(regex + r"embeddings\.position_embedding\.weight", "positions"),
        *block_rules(regex, depth),
    ]
    return [dataclasses.replace(rule, target=f"vision/{rule.target}") for rule in table]


def _onevision(tensors: Tensors, said: Mapping[str, Any]):
    # both are in the wild, with the tower's own prefix and without
    regex = r"vision_tower\.(?:vision_model\.)?"
    table = _vit_rules(regex, said["num_hidden_layers"])
    table += dense_rules(r"multi_modal_projector\.linear_1", "connector/up")
    table += dense_rules(r"multi_modal_projector\.linear_2", "connector/down")
    table.append(Rule("image_newline", "connector/newline"))
    return _vit(said, "none"), table, "onevision"


def _smolvlm(tensors: Tensors, said: Mapping[str, Any]):
    regex = r"model\.vision_model\."
    table = _vit_rules(regex, said["num_hidden_layers"])
    table += norm_rules(regex + "post_layernorm", "vision/norm")
    key = r"model\.connector\.modality_projection\.proj\.weight"
    table.append(Rule(key, "connector/project/kernel", linear))
    return _vit(said, "tokens"), table, "shuffle"


VISIONS = {
    "qwen2_5_vl": lambda tensors, said: _qwen(tensors, said, "visual.", modern=False),
    "qwen3_vl": lambda tensors, said: _qwen(tensors, said, "model.visual.", modern=True),
    "llava_onevision": _onevision,
    "smolvlm": _smolvlm,
}
# weights of a checkpoint that its model never reads
UNUSED = (r"vision_tower\.(?:vision_model\.)?post_layernorm\..*", r".*\.head\..*")

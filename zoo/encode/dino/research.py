"""DINOv3 and EUPE ViTs under the names of their research code, as transformers names them.

Those files are pickles, which are refused here: read the state dict once with torch's weights-only
loader and save it as safetensors. Source of the names: ``DinoVisionTransformer`` of
facebookresearch/dinov3 (dinov3/models/vision_transformer.py) and facebookresearch/EUPE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ...convert import ConvertError

Tensors = Mapping[str, np.ndarray]
HEAD = 64  # channels of a head, in all of them
NAMES = (
    (r"cls_token", "embeddings.cls_token"),
    (r"mask_token", "embeddings.mask_token"),
    (r"storage_tokens", "embeddings.register_tokens"),
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", r"layer.\1.norm\2.\3"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"layer.\1.attention.o_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"layer.\1.mlp.up_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"layer.\1.mlp.down_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.w1\.(weight|bias)", r"layer.\1.mlp.gate_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.w2\.(weight|bias)", r"layer.\1.mlp.up_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.w3\.(weight|bias)", r"layer.\1.mlp.down_proj.\2"),
    (r"norm\.(weight|bias)", r"norm.\1"),
)
QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
LEFT_OUT = re.compile(r"rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask")


def is_research(keys: frozenset[str]) -> bool:
    """True for a DINOv3 or EUPE ViT of the research code: DINOv2 has a table of positions."""
    return {"blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma", "rope_embed.periods"} <= keys


def rope_base(tensors: Tensors) -> float:
    """The base of the rotary angles: n periods are base ** (k / n)."""
    periods = np.asarray(tensors["rope_embed.periods"], np.float64)
    count = len(periods)  # stored in bfloat16: the last one has the most digits of the base
    return float(np.round(periods[-1] ** (count / (count - 1))))


def as_transformers(tensors: Tensors) -> dict[str, np.ndarray]:
    """The same tensors by the names of ``DINOv3ViTModel``. A bias of keys that is masked is none.

    Raises:
      ConvertError: a key that such a checkpoint does not have.
    """
    found: dict[str, np.ndarray] = {}
    for key, value in tensors.items():
        if match := QKV.fullmatch(key):
            layer, kind = match.groups()
            mask = tensors.get(f"blocks.{layer}.attn.qkv.bias_mask")
            for i, (letter, part) in enumerate(zip("qkv", np.split(value, 3), strict=True)):
                if kind == "bias" and mask is not None and not np.split(mask, 3)[i].any():
                    continue
                found[f"layer.{layer}.attention.{letter}_proj.{kind}"] = part
            continue
        if LEFT_OUT.fullmatch(key):
            continue
        for theirs, name in NAMES:
            if match := re.fullmatch(theirs, key):
                found[match.expand(name)] = value
                break
        else:
            raise ConvertError(f"{key}: no such part in the ViTs of DINOv3 and EUPE that are here")
    return found


def config_of(tensors: Tensors) -> dict[str, object]:
    """What the file does not say in the words of a transformers config: heads, activation, base."""
    dim = tensors["cls_token"].shape[-1]
    gated = "blocks.0.mlp.w1.weight" in tensors
    return {
        "model_type": "dinov3_vit",
        "num_attention_heads": max(1, dim // HEAD),
        "hidden_act": "silu" if gated else "gelu",
        "rope_theta": rope_base(tensors),
    }

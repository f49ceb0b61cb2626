"""Any encoder of the zoo behind one face: frames of streams in, a map of features out."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from ....layers.streaming import Carry, DType
from ...encode.stems import STEMS, make_stem, stem_stride, stem_width
from ...registry import create_model, find, model_card, model_config

Array = jax.Array


def is_causal(name: str) -> bool:
    """True for a causal student, whose features remember; stems and image encoders do not."""
    return name not in STEMS and model_card(name).streaming


def encoder_stride(name: str) -> int:
    """Pixels per cell of the map.

    Raises:
      ValueError: no stem, image encoder or causal student has this name.
    """
    if name in STEMS:
        return stem_stride(name)
    config = model_config(name)
    student = hasattr(config, "temporal")
    # clip encoders and sliding windows need more than one frame; trackers need prompts
    if hasattr(config, "frames") or (model_card(name).streaming and not student):
        raise ValueError(
            f"encoder {name!r}: give a stem ({', '.join(STEMS)}), an image encoder or a causal "
            "student; this one does not answer to single frames"
        )
    stride = getattr(config, "patch", None) or getattr(config, "stride", None)
    if stride is None:
        raise ValueError(f"encoder {name!r}: {type(config).__name__} does not say its stride")
    return int(stride)


def encoder_width(name: str) -> int:
    """Channels of the features that may be given instead of frames (of a stem); else 0."""
    return stem_width(name) if name in STEMS else 0


def make_encoder(name: str, dtype: DType) -> nn.Module:
    """The module: a stem, or the model of that name in its registered form."""
    if name in STEMS:
        return make_stem(name, dtype)
    fields = {field.name for field in dataclasses.fields(model_config(name))}
    return create_model(name, **({"dtype": dtype} if "dtype" in fields else {}))


def encoder_carry(name: str, batch: int, frame_shape: tuple[int, int]) -> Carry:
    """What the encoder itself remembers of ``batch`` streams: () unless it is a causal student."""
    if not is_causal(name):
        return ()
    entry = find(name)
    # no parent: this is also called where another module is being built
    student: Any = entry.build(entry.config, parent=None)
    return student.init_carry(batch, frame_shape)


def encode(
    module: Any, name: str, carry: Carry, frames: Array, valid: Array | None
) -> tuple[Carry, Array]:
    """frames [B, T, H, W, 3], or a stem's features of them -> (carry, map [B, T, h, w, F])."""
    if is_causal(name):
        carry, out = module(carry, frames, valid, taps=("features",))
        return carry, out.taps["features"]
    if name in STEMS:
        return carry, frames if frames.shape[-1] != 3 else module.pyramid(frames)
    flat = frames.reshape(-1, *frames.shape[2:])
    features = module(flat).features
    return carry, features.reshape(*frames.shape[:2], *features.shape[1:])

"""Image encoders in front of a video model: features instead of patches of pixels.

``efficientnet-lite0`` is pretrained and stays frozen: a model with it takes frames, or the stem's
features of them computed beforehand, so that training runs it once per frame and not once per
epoch. ``palm-points`` is the palm detector, likewise: one token that says where the palm is.
``conv16`` is a few convolutions learned with the model ("Early Convolutions Help Transformers See
Better", arXiv 2106.14881): small data sets need them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.streaming import DType, Fields
from ..pose.palm.stem import PalmStem, PalmStemConfig
from .efficientnet.model import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    of_pyramid,
    pyramid_width,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ConvStemConfig:
    """3 x 3 convolutions of stride 2 with a norm and ReLU each; ``widths`` are their channels."""

    widths: tuple[int, ...] = (24, 48, 96, 128)
    dtype: DType = "float32"

    @property
    def stride(self) -> int:
        return 2 ** len(self.widths)

    @property
    def width(self) -> int:
        return self.widths[-1]


class ConvStem(nn.Module):
    """frames [..., H, W, 3] -> [..., H / stride, W / stride, F]."""

    config: ConvStemConfig

    def setup(self):
        cfg = self.config
        self.convs = [nn.Conv(w, (3, 3), 2, dtype=cfg.dtype) for w in cfg.widths]
        self.norms = [nn.LayerNorm(dtype=cfg.dtype) for _ in cfg.widths]

    def pyramid(self, frames: Array) -> Array:
        x = frames.reshape(-1, *frames.shape[-3:])
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.relu(norm(conv(x)))
        return x.reshape(*frames.shape[:-3], *x.shape[1:])


STEMS: Fields = {
    "efficientnet-lite0": EfficientNetLiteConfig(head=0, num_classes=0),
    "conv16": ConvStemConfig(),
    "palm-points": PalmStemConfig(),
}
_MODULES: dict[type, Any] = {
    EfficientNetLiteConfig: EfficientNetLite,
    ConvStemConfig: ConvStem,
    PalmStemConfig: PalmStem,
}
# frozen stem -> the name whose weights it has
PRETRAINED = {
    "efficientnet-lite0": "efficientnet-lite0/imagenet",
    "palm-points": "palm-lite/mediapipe",
}


def make_stem(name: str, dtype: DType = "float32") -> nn.Module:
    """The module; its method ``pyramid`` makes the features. Raises ValueError: unknown stem."""
    config = dataclasses.replace(_config(name), dtype=dtype)
    return _MODULES[type(config)](config)


def stem_stride(name: str) -> int:
    """Pixels per cell of the features. Raises ValueError for an unknown stem."""
    return _config(name).stride


def filled(frames: Array, stem: str) -> Array:
    """Frames [..., H, W, 3] of a stem that reads one size alone: black below and on the right of
    smaller ones, as its card's ``fit`` sends them; all else as it is."""
    side = getattr(STEMS.get(stem), "side", None)
    if side is None or frames.shape[-1] != 3:
        return frames
    more = [max(want - have, 0) for want, have in zip(side, frames.shape[-3:-1], strict=True)]
    return jnp.pad(frames, [(0, 0)] * (frames.ndim - 3) + [(0, more[0]), (0, more[1]), (0, 0)])


def stem_width(name: str) -> int:
    """Channels F of the features [..., H / stride, W / stride, F]; 0 for no stem."""
    if not name:
        return 0
    config = _config(name)
    return pyramid_width(config) if isinstance(config, EfficientNetLiteConfig) else config.width


def two_maps(features: Array, name: str) -> tuple[Array, Array]:
    """The maps of two resolutions of which a stem's features [M, h, w, F] are made: [M, 2 h, 2 w,
    C] and [M, h, w, D]. Raises ValueError for a stem of one map."""
    config = _config(name)
    if not isinstance(config, EfficientNetLiteConfig):
        raise ValueError(f"stem {name!r} has one map, not two: take efficientnet-lite0")
    return of_pyramid(features, config)


def _config(name: str) -> Any:
    if name not in STEMS:
        raise ValueError(f"stem {name!r}: choose from {', '.join(STEMS)}, or '' for patches")
    return STEMS[name]

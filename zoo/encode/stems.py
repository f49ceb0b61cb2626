"""Image encoders in front of a video model: features instead of patches of pixels.

``efficientnet-lite0`` is pretrained and stays frozen: a model with it takes frames, or the stem's
features of them computed beforehand, so that training runs it once per frame and not once per
epoch. ``conv16`` is a few convolutions learned with the model ("Early Convolutions Help
Transformers See Better", arXiv 2106.14881): small data sets need them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, pyramid_width

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ConvStemConfig:
    """3 x 3 convolutions of stride 2 with a norm and ReLU each; ``widths`` are their channels."""

    widths: tuple[int, ...] = (24, 48, 96, 128)
    dtype: Any = "float32"

    @property
    def stride(self) -> int:
        return 2 ** len(self.widths)


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


STEMS: dict[str, Any] = {
    "efficientnet-lite0": EfficientNetLiteConfig(head=0, num_classes=0),
    "conv16": ConvStemConfig(),
}
# frozen stem -> the name whose weights it has
PRETRAINED = {"efficientnet-lite0": "efficientnet-lite0/imagenet"}


def make_stem(name: str, dtype: Any = "float32") -> nn.Module:
    """The module; its method ``pyramid`` makes the features. Raises ValueError: unknown stem."""
    config = dataclasses.replace(_config(name), dtype=dtype)
    return ConvStem(config) if isinstance(config, ConvStemConfig) else EfficientNetLite(config)


def stem_stride(name: str) -> int:
    """Pixels per cell of the features. Raises ValueError for an unknown stem."""
    return _config(name).stride


def stem_width(name: str) -> int:
    """Channels F of the features [..., H / stride, W / stride, F]; 0 for no stem."""
    if not name:
        return 0
    config = _config(name)
    return config.widths[-1] if isinstance(config, ConvStemConfig) else pyramid_width(config)


def _config(name: str) -> Any:
    if name not in STEMS:
        raise ValueError(f"stem {name!r}: choose from {', '.join(STEMS)}, or '' for patches")
    return STEMS[name]

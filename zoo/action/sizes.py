"""Widths and depths of the ViT sizes, shared by teachers and students."""

from __future__ import annotations

from typing import NamedTuple

from ..encode.efficientnet.model import MEAN, STD


class Size(NamedTuple):
    dim: int
    depth: int
    heads: int


SIZES = {
    "na": Size(64, 4, 4),
    "mi": Size(128, 4, 4),
    "ti": Size(192, 12, 3),
    "s": Size(384, 12, 6),
    "b": Size(768, 12, 12),
    "l": Size(1024, 24, 16),
    "h": Size(1280, 32, 16),
}

# The small sizes train on a laptop: "mi" reads pixels, "lite0" an ImageNet encoder's features,
# "palm" where the palm detector saw a palm.
SMALL = {
    "mi16": dict(image_size=(96, 96), patch=16),
    "lite0": dict(image_size=(128, 160), patch=32, stem="efficientnet-lite0"),
    "palm": dict(image_size=(192, 192), patch=192, stem="palm-points"),
}
# A gesture takes longer than what else is learned here: the teacher's window holds all of it.
WINDOWS = {"palm": 40}


def small_size(name: str) -> Size:
    """Widths and depth of a size of ``SMALL``."""
    return SIZES["na" if name == "palm" else "mi"]


def small_look(name: str) -> tuple[str, dict]:
    """(a few words, card fields) of a size of ``SMALL``."""
    shape = SMALL[name]
    if name == "palm":  # frames stay as they come, 0 to 1
        look = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="letterbox")
        return "on the palm detector's points", look | dict(input_size=shape["image_size"])
    if "stem" in shape:
        look = dict(mean=MEAN, std=STD, input_size=shape["image_size"])
        return "on features of EfficientNet-Lite0", look
    return "96x96 pixels", dict(input_size=shape["image_size"])

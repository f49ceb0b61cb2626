"""The pose models by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import MoveNet, MoveNetConfig

_SIZES = {
    "movenet-multi": (MoveNetConfig(), "up to 6 persons, each a box and 17 points"),
    "movenet-single": (
        MoveNetConfig((192, 192), 1, (32, 16, 24, 32, 64, 96, 160, 320, 1280)),
        "17 points of the person nearest the middle",
    ),
}
for _name, (_config, _what) in _SIZES.items():
    register(
        _name,
        MoveNet,
        _config,
        Card(
            _name,
            summary=f"pose in single frames: {_what}",
            paper="MoveNet (Google, 2021); CenterNet (arXiv 1904.07850) on MobileNetV2",
            input_size=_config.image_size,
            fit="letterbox",
            mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 255
            std=(1 / 255, 1 / 255, 1 / 255),
            classes=("person",),
        ),
    )

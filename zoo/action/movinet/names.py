"""The published streaming MoViNets by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import K13, K15, K33, K53, MoViNet, MoViNetConfig, Stage

SIZES = {
    "a0": MoViNetConfig(),
    "a1": MoViNetConfig(
        image_size=(172, 172),
        stem=16,
        stages=(
            Stage(16, (40, 40), (K15, K33)),
            Stage(40, (96, 120, 96, 96), (K33,) * 4),
            Stage(64, (216, 128, 216, 168, 216), (K53, *(K33,) * 4)),
            Stage(64, (216, 216, 216, 128, 128, 216), (K53, *(K33,) * 3, K15, K33), 1),
            Stage(136, (456, 360, 360, 360, 456, 456, 544), (K53, *(K15,) * 4, K33, K13)),
        ),
        top=600,
    ),
    "a2": MoViNetConfig(
        image_size=(224, 224),
        stem=16,
        stages=(
            Stage(16, (40, 40, 64), (K15, K33, K33)),
            Stage(40, (96, 120, 96, 96, 120), (K33,) * 5),
            Stage(72, (240, 160, 240, 192, 240), (K53, *(K33,) * 4)),
            Stage(72, (240, 240, 240, 240, 144, 240), (K53, *(K33,) * 3, K15, K33), 1),
            Stage(144, (480, 384, 384, 480, 480, 480, 576), (K53, *(K15,) * 4, K33, K13)),
        ),
        top=640,
    ),
}
for _size, _config in SIZES.items():
    _name = f"movinet-{_size}"
    register(
        _name,
        MoViNet,
        _config,
        Card(
            _name,
            summary=f"MoViNet-{_size.upper()}-Stream: what a stream has shown so far, causal"
            " (2+1)-D convolutions",
            paper="Kondratyuk et al., MoViNets (arXiv 2103.11511)",
            input_size=_config.image_size,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            multi_label=False,
        ),
    )

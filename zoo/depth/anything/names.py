"""Depth Anything by name."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import Fields
from ...encode.families import IMAGENET
from ...encode.vit import ImageViTConfig
from ...registry import Card, register
from ..model import SMALL, DepthConfig, DepthViT

V1 = "Yang et al., Depth Anything (arXiv 2401.10891)"
V2 = "Yang et al., Depth Anything V2 (arXiv 2406.09414)"


def _encoder(dim: int, depth: int, heads: int) -> ImageViTConfig:
    return dataclasses.replace(SMALL, dim=dim, depth=depth, heads=heads)


SIZES = {
    "s14": ("Small", DepthConfig(), "Apache-2.0"),
    "b14": (
        "Base",
        DepthConfig(_encoder(768, 12, 12), widths=(96, 192, 384, 768), fused=128),
        "CC-BY-NC-4.0 (the published weights)",
    ),
    "l14": (
        "Large",
        DepthConfig(
            _encoder(1024, 24, 16), (4, 11, 17, 23), widths=(256, 512, 1024, 1024), fused=256
        ),
        "CC-BY-NC-4.0 (the published weights)",
    ),
}
NAMED: list[str] = []  # every name of this file
for _size, (_word, _config, _licence) in SIZES.items():
    _deep = _config.encoder.depth
    _last: Fields = dict(layers=tuple(range(_deep - 4, _deep)))
    # tag -> (repository, paper, licence, what differs, what it answers)
    _tags: dict[str, tuple[str, str, str, Fields, str]] = {
        "v1": (
            f"LiheYoung/depth-anything-{_word.lower()}-hf", V1, "Apache-2.0", _last,
            "relative inverse depth",
        ),
        "v2": (
            f"depth-anything/Depth-Anything-V2-{_word}-hf", V2, _licence, {},
            "relative inverse depth",
        ),
        "v2-indoor": (
            f"depth-anything/Depth-Anything-V2-Metric-Indoor-{_word}-hf", V2, _licence,
            dict(max_depth=20.0), "metres, up to 20 (rooms)",
        ),
        "v2-outdoor": (
            f"depth-anything/Depth-Anything-V2-Metric-Outdoor-{_word}-hf", V2, _licence,
            dict(max_depth=80.0), "metres, up to 80 (streets)",
        ),
    }  # fmt: skip
    _name = f"depthanything-{_size}"
    _look: Fields = dict(input_size=(518, 518), fit="letterbox", **IMAGENET)
    _about = f"depth of single frames, {_config.encoder.dim} wide, {_deep} blocks"
    register(_name, DepthViT, _config, Card(_name, summary=_about, paper=V2, **_look))
    NAMED += [_name, *(f"{_name}/{_tag}" for _tag in _tags)]
    for _tag, (_source, _paper, _terms, _changes, _what) in _tags.items():
        register(
            f"{_name}/{_tag}",
            DepthViT,
            _config,
            Card(
                f"{_name}/{_tag}", summary=f"published: {_about}; {_what}", paper=_paper,
                source=f"hf:{_source}", licence=_terms, overrides=_changes, **_look,
            ),
        )  # fmt: skip

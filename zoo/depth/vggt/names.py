"""VGGT by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...encode.families import IMAGENET
from ...registry import Card, register
from .config import VGGTConfig
from .model import VGGT
from .stream import VGGTStream

PAPER = "Wang et al., VGGT (arXiv 2503.11651)"
L14 = VGGTConfig()
# what two cores learn from drawn worlds in minutes; its patches need no encoder
NANO = VGGTConfig(
    (48, 64), 8, conv_stem=True, dim=64, depth=4, heads=4, layers=(0, 1, 2, 3), camera_depth=2,
    camera_heads=4, rounds=2, widths=(24, 32, 64, 64), fused=24, hidden=8,
)  # fmt: skip
_look: Fields = dict(paper=PAPER, **IMAGENET)
for _name, _build, _what in (
    ("vggt-l14", VGGT, "cameras, depth and points of several views at once"),
    ("vggtstream-l14", VGGTStream, "the same as a stream: the first frame and the newest 8"),
    ("vggtstream-nano", VGGTStream, "a small one, to learn from drawn worlds"),
):
    _config = NANO if _name.endswith("nano") else L14
    _card = Card(_name, summary=_what, streaming=_build is VGGTStream,
                 input_size=_config.image_size, **_look)  # fmt: skip
    register(_name, _build, _config, _card)

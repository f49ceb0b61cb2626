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
_look: Fields = dict(input_size=L14.image_size, paper=PAPER, **IMAGENET)
for _name, _build, _what in (
    ("vggt-l14", VGGT, "cameras, depth and points of several views at once"),
    ("vggtstream-l14", VGGTStream, "the same as a stream: the first frame and the newest 8"),
):
    _card = Card(_name, summary=_what, streaming=_build is VGGTStream, **_look)
    register(_name, _build, L14, _card)

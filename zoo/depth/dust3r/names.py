"""DUSt3R and MASt3R by name."""

from __future__ import annotations

import dataclasses

from ...encode.families import HALF
from ...registry import Card, register
from .config import DUSt3RConfig
from .model import DUSt3R

LICENCE = "CC BY-NC-SA 4.0 (the published weights: no commercial use; none are known here)"
_config = DUSt3RConfig()
for _name, _channels, _what, _paper in (
    ("dust3r-l", _config.descriptors, "points of two views in the camera of the first; cameras of"
     " several; offline", "Wang et al., DUSt3R (arXiv 2312.14132)"),
    ("mast3r-l", 24, "DUSt3R with descriptors of every pixel, which are matched; offline",
     "Leroy et al., MASt3R (arXiv 2406.09756)"),
):  # fmt: skip
    _card = Card(_name, summary=_what, paper=_paper, licence=LICENCE, streaming=False,
                 input_size=_config.image_size, **HALF)  # fmt: skip
    register(_name, DUSt3R, dataclasses.replace(_config, descriptors=_channels), _card)

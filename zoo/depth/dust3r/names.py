"""DUSt3R and MASt3R by name."""

from __future__ import annotations

import dataclasses

from ...encode.families import HALF
from ...registry import Card, register
from .config import DUSt3RConfig
from .model import DUSt3R

LICENCE = "CC BY-NC-SA 4.0 (the published weights: no commercial use; none are known here)"
_config = DUSt3RConfig()
register(
    "dust3r-l",
    DUSt3R,
    _config,
    Card(
        "dust3r-l",
        summary="points of two views in the camera of the first; cameras of several; offline",
        paper="Wang et al., DUSt3R (arXiv 2312.14132)",
        licence=LICENCE,
        input_size=_config.image_size,
        streaming=False,
        **HALF,
    ),
)
register(
    "mast3r-l",
    DUSt3R,
    dataclasses.replace(_config, descriptors=24),
    Card(
        "mast3r-l",
        summary="DUSt3R with descriptors of every pixel, which are matched; offline",
        paper="Leroy et al., MASt3R (arXiv 2406.09756)",
        licence=LICENCE,
        input_size=_config.image_size,
        streaming=False,
        **HALF,
    ),
)

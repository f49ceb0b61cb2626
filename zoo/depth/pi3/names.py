"""Pi3 by name."""

from __future__ import annotations

from ...encode.families import IMAGENET
from ...registry import Card, register
from .model import Pi3, Pi3Config

_config = Pi3Config()
register(
    "pi3-l14",
    Pi3,
    _config,
    Card(
        "pi3-l14",
        summary="cameras, depth and points of several views, in whatever order; offline",
        paper="Wang et al., Pi3 (arXiv 2507.13347)",
        licence="BSD-3-Clause (the code; no weights are known here)",
        input_size=_config.image_size,
        streaming=False,
        **IMAGENET,
    ),
)

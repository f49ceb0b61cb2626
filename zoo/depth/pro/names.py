"""Depth Pro by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...registry import Card, register
from .model import DepthPro, DepthProConfig

PAPER = "Bochkovskii et al., Depth Pro (arXiv 2410.02073)"
LOOK: Fields = dict(input_size=(1536, 1536), mean=(0.5,) * 3, std=(0.5,) * 3, multi_label=False)

register(
    "depthpro-l16",
    DepthPro,
    DepthProConfig(),
    Card("depthpro-l16", summary="sharp metric depth of single frames", paper=PAPER, **LOOK),
)
register(
    "depthpro-l16/published",
    DepthPro,
    DepthProConfig(),
    Card(
        "depthpro-l16/published",
        summary="published: sharp depth of single frames, metres, and the field of view",
        paper=PAPER,
        source="hf:apple/DepthPro-hf",
        licence="apple-amlr (the published weights: research only)",
        **LOOK,
    ),
)

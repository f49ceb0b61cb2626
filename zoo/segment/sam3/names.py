"""SAM 3 by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...registry import Card, register
from .config import Sam3Config
from .model import Sam3

LOOK: Fields = dict(
    input_size=Sam3Config().image_size,
    filter="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    paper="Carion et al., SAM 3: Segment Anything with Concepts (arXiv 2511.16719)",
    licence="SAM License (the published weights)",
    multi_label=False,
)
ABOUT = "masks and boxes of every instance of what a text names, in single frames; 838 M parameters"
register("sam3-l14", Sam3, Sam3Config(), Card("sam3-l14", summary=ABOUT, **LOOK))
register(
    "sam3-l14/concepts",
    Sam3,
    Sam3Config(),
    Card("sam3-l14/concepts", summary=f"published: {ABOUT}", source="hf:facebook/sam3", **LOOK),
)

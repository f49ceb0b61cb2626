"""DPT by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...encode.families import HALF
from ...encode.vit import ImageViTConfig
from ...registry import Card, register
from ..model import DepthConfig, DepthViT

L16 = DepthConfig(
    ImageViTConfig(
        (384, 384), 16, 1024, 24, 16, eps=1e-12, final_norm="none", resize="bilinear", pool="none"
    ),
    layers=(5, 11, 17, 23),
    normed=False,
    readout="project",
    widths=(256, 512, 1024, 1024),
    fused=256,
    doubles=True,
)
_look: Fields = dict(
    input_size=(384, 384),
    filter="bicubic",
    paper="Ranftl et al., DPT (arXiv 2103.13413); MiDaS (arXiv 1907.01341)",
    **HALF,
)
_about = "relative inverse depth of single frames, 1024 wide, 24 blocks"
register("dpt-l16", DepthViT, L16, Card("dpt-l16", summary=_about, **_look))
register(
    "dpt-l16/midas3",
    DepthViT,
    L16,
    Card(
        "dpt-l16/midas3",
        summary=f"published: {_about}",
        source="hf:Intel/dpt-large",
        **_look,
    ),
)

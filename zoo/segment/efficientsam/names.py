"""EfficientSAM by name."""

from __future__ import annotations

from ...registry import register
from ..cards import prompted, prompted_card
from ..segmenter import EFFICIENTSAM_DECODER, Sam, SamConfig
from ..sizes import EFFICIENTSAM_SIZES

PAPER = "Xiong et al., EfficientSAM (arXiv 2312.00863)"

for _size, _trunk in EFFICIENTSAM_SIZES.items():
    _name = f"efficientsam-{_size}"
    _about = f"segment anything with a small ViT of width {_trunk.dim}: masks for points and boxes"
    _sam = SamConfig(_trunk, EFFICIENTSAM_DECODER, masks=False, points=6, add_no_point=True)
    register(_name, Sam, _sam, prompted_card(_name, _about, PAPER), inputs=prompted)

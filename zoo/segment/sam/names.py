"""SAM by name."""

from __future__ import annotations

from ...registry import register
from ..cards import prompted, prompted_card
from ..segmenter import Sam, SamConfig
from ..sizes import SAM_SIZES

PAPER = "Kirillov et al., Segment Anything (arXiv 2304.02643)"

for _size, _trunk in SAM_SIZES.items():
    _name = f"sam-{_size}"
    _about = f"segment anything: masks for points, boxes and masks; ViT of width {_trunk.dim}"
    _look = prompted_card(_name, _about, PAPER, fit="pad", filter="bilinear")
    register(_name, Sam, SamConfig(trunk=_trunk), _look, inputs=prompted)

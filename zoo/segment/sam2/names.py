"""SAM 2 and 2.1 on single frames by name."""

from __future__ import annotations

from ...registry import register
from ..cards import prompted, prompted_card
from ..segmenter import Sam2, Sam2Config
from ..sizes import HIERA_SIZES

PAPER = "Ravi et al., SAM 2: Segment Anything in Images and Videos (arXiv 2408.00714)"

for _version in ("2", "2.1"):
    for _size, _hiera in HIERA_SIZES.items():
        _name = f"sam{_version}-{_size}"
        _about = f"SAM {_version} on single frames; Hiera of widths {_hiera.dims}"
        _config = Sam2Config(trunk=_hiera)
        _look = prompted_card(_name, _about, PAPER, filter="bilinear")
        register(_name, Sam2, _config, _look, inputs=prompted)

"""EfficientTAM by name."""

from __future__ import annotations

from ..cards import BEFORE_2_1, register_tracker
from ..decoder import DecoderConfig
from ..sizes import EFFICIENTTAM_SIZES
from ..tracker import TrackerConfig

PAPER = "Xiong et al., Efficient Track Anything (arXiv 2411.18933)"

for _size, _plain in EFFICIENTTAM_SIZES.items():
    register_tracker(
        f"efficienttam-{_size}",
        TrackerConfig(trunk=_plain, decoder=DecoderConfig(skips=False), pool=True, **BEFORE_2_1),
        f"tracks prompted objects; plain ViT of width {_plain.dim}, memories read by pooled keys",
        PAPER,
    )

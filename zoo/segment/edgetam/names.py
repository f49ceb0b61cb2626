"""EdgeTAM by name."""

from __future__ import annotations

from ...encode.repvit.model import RepViTConfig
from ..cards import register_tracker
from ..perceiver import PerceiverConfig
from ..tracker import TrackerConfig

PAPER = "Zhou et al., EdgeTAM: On-Device Track Anything Model (arXiv 2501.07256)"

register_tracker(
    "edgetam-m1",
    TrackerConfig(
        trunk=RepViTConfig(image_size=(1024, 1024)),
        depth=2,
        perceiver=PerceiverConfig(),
        memory_dtype="float32",
    ),
    "tracks prompted objects on small devices; RepViT-M1 and memories pressed to 512 tokens",
    PAPER,
)

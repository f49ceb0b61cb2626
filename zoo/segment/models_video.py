"""The trackers of this room by name."""

from __future__ import annotations

from typing import Any

from ..encode.repvit import RepViTConfig
from ..registry import Card, register
from .decoder import DecoderConfig
from .perceiver import PerceiverConfig
from .propagate import PropagateConfig, Propagator
from .sizes import EFFICIENTTAM_SIZES, HIERA_SIZES
from .tracker import Tracker, TrackerConfig

SAM2_PAPER = "Ravi et al., SAM 2: Segment Anything in Images and Videos (arXiv 2408.00714)"
EFFICIENTTAM_PAPER = "Xiong et al., Efficient Track Anything (arXiv 2411.18933)"
EDGETAM_PAPER = "Zhou et al., EdgeTAM: On-Device Track Anything Model (arXiv 2501.07256)"


def _register(
    name: str, config: Any, summary: str, paper: str, module: Any = Tracker, **fields: Any
) -> None:
    card = Card(
        name,
        summary=summary,
        paper=paper,
        input_size=config.image_size,
        multi_label=False,
        **fields,
    )
    register(name, module, config, card)


_OLD: dict[str, Any] = dict(absent_memory=False, pointer_times=False)

for _version, _flags in (("2", _OLD), ("2.1", dict[str, Any]())):
    for _size, _trunk in HIERA_SIZES.items():
        _register(
            f"sam{_version}video-{_size}",
            TrackerConfig(trunk=_trunk, **_flags),
            f"SAM {_version} on video: tracks prompted objects; Hiera of widths {_trunk.dims}",
            SAM2_PAPER,
        )

_register(
    "edgetam-m1",
    TrackerConfig(
        trunk=RepViTConfig(image_size=(1024, 1024)),
        depth=2,
        perceiver=PerceiverConfig(),
        memory_dtype="float32",
    ),
    "tracks prompted objects on small devices; RepViT-M1 and memories pressed to 512 tokens",
    EDGETAM_PAPER,
)

for _size, _plain in EFFICIENTTAM_SIZES.items():
    _register(
        f"efficienttam-{_size}",
        TrackerConfig(
            trunk=_plain, decoder=DecoderConfig(skips=False), pool=True, binarize="points", **_OLD
        ),
        f"tracks prompted objects; plain ViT of width {_plain.dim}, memories read by pooled keys",
        EFFICIENTTAM_PAPER,
    )

# Small enough to come with the package; the trunk stays as published and wants its own greys.
_register(
    "tracker-lite0",
    PropagateConfig(),
    "tracks prompted objects by likeness: a small network on a frozen EfficientNet-Lite0",
    "after Cheng et al., STCN (arXiv 2106.05210); prompts and sizes are ours",
    Propagator,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)

"""SAM 2 and 2.1 on video by name."""

from __future__ import annotations

from typing import Any

from ..cards import BEFORE_2_1, register_tracker
from ..sizes import HIERA_SIZES
from ..tracker import TrackerConfig

PAPER = "Ravi et al., SAM 2: Segment Anything in Images and Videos (arXiv 2408.00714)"

for _version, _flags in (("2", BEFORE_2_1), ("2.1", dict[str, Any]())):
    for _size, _trunk in HIERA_SIZES.items():
        register_tracker(
            f"sam{_version}video-{_size}",
            TrackerConfig(trunk=_trunk, **_flags),
            f"SAM {_version} on video: tracks prompted objects; Hiera of widths {_trunk.dims}",
            PAPER,
        )

"""Cutie's two sizes by name."""

from __future__ import annotations

from ..cards import register_tracker
from .model import Cutie, CutieConfig

for size, config in {
    "base": CutieConfig(),
    "small": CutieConfig(narrow=False, blocks=(2, 2, 2)),
}.items():
    register_tracker(
        f"cutie-{size}",
        config,
        "tracks objects shown by a mask; what is read of pixels is put in order by queries that"
        " know the object, and its first frame stays",
        "Cheng et al., Cutie (arXiv 2310.12982)",
        Cutie,
    )

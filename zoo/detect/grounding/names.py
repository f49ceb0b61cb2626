"""Grounding DINO by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...encode.families import IMAGENET
from ...registry import Card, register
from .config import GroundingConfig
from .model import GroundingDINO
from .swin import SwinConfig

LOOK: Fields = dict(
    input_size=GroundingConfig().image_size,
    fit="letterbox",
    paper="Liu et al., Grounding DINO (arXiv 2303.05499)",
    multi_label=False,
    **IMAGENET,
)
BASE = SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12)
for _size, _word, _config, _what in (
    ("t", "tiny", GroundingConfig(), "a Swin-T trunk, 172 M parameters"),
    ("b", "base", GroundingConfig(trunk=BASE), "a Swin-B trunk, 232 M parameters"),
):
    _name = f"groundingdino-{_size}"
    _about = f"boxes of what a text names, in single frames; {_what}"
    register(_name, GroundingDINO, _config, Card(_name, summary=_about, **LOOK))
    _tagged = f"{_name}/grounded"
    register(
        _tagged,
        GroundingDINO,
        _config,
        Card(
            _tagged,
            summary=f"published: {_about}",
            source=f"hf:IDEA-Research/grounding-dino-{_word}",
            **LOOK,
        ),
    )

"""The ConvNeXt encoders by name."""

from __future__ import annotations

from ...registry import Card, register
from ..families import frame_input
from .convert import SIZES
from .model import ConvNeXt, ConvNeXtConfig

_PARAMETERS = {"t": "28 M", "s": "49 M", "b": "88 M"}
_FAMILIES = {
    "dinov3": ("distilled from DINOv3", "Simeoni et al., DINOv3 (arXiv 2508.10104)"),
    "eupe": ("EUPE's universal encoder", "EUPE (arXiv 2603.22387)"),
}

for _family, (_about, _paper) in _FAMILIES.items():
    for _size, _shape in SIZES.items():
        _name = f"{_family}-convnext-{_size}"
        _card = Card(
            _name,
            summary=f"ConvNeXt image encoder, {_PARAMETERS[_size]} parameters, {_about}",
            paper=_paper,
            filter="bilinear",
            multi_label=False,
            streaming=False,
        )
        register(_name, ConvNeXt, ConvNeXtConfig(**_shape), _card, inputs=frame_input)

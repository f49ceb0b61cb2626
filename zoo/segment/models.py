"""The image models of this room by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..registry import Card, register
from .segmenter import EFFICIENTSAM_DECODER, Sam, Sam2, Sam2Config, SamConfig
from .sizes import EFFICIENTSAM_SIZES, HIERA_SIZES, SAM_SIZES

SAM_PAPER = "Kirillov et al., Segment Anything (arXiv 2304.02643)"
EFFICIENTSAM_PAPER = "Xiong et al., EfficientSAM (arXiv 2312.00863)"
SAM2_PAPER = "Ravi et al., SAM 2: Segment Anything in Images and Videos (arXiv 2408.00714)"


def prompted(module: Any, card: Card) -> tuple:
    """Arguments of ``init``: a frame, a click and, where there are any, a mask."""
    config = module.config
    prompt = config.prompt
    frame = jnp.zeros((1, *config.image_size, 3))
    click = (jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 1), jnp.int32))
    if not prompt.masks:
        return (frame, *click)
    h, w = prompt.grid
    return (frame, *click, None, jnp.zeros((1, 1, 4 * h, 4 * w)))


def _card(name: str, summary: str, paper: str, **fields: Any) -> Card:
    fields = dict(input_size=(1024, 1024), multi_label=False, streaming=False) | fields
    return Card(name, summary=summary, paper=paper, **fields)


for _size, _trunk in SAM_SIZES.items():
    _name = f"sam-{_size}"
    _about = f"segment anything: masks for points, boxes and masks; ViT of width {_trunk.dim}"
    register(_name, Sam, SamConfig(trunk=_trunk), _card(_name, _about, SAM_PAPER), inputs=prompted)

for _size, _trunk in EFFICIENTSAM_SIZES.items():
    _name = f"efficientsam-{_size}"
    _about = f"segment anything with a small ViT of width {_trunk.dim}: masks for points and boxes"
    _sam = SamConfig(_trunk, EFFICIENTSAM_DECODER, masks=False, points=6, add_no_point=True)
    register(_name, Sam, _sam, _card(_name, _about, EFFICIENTSAM_PAPER), inputs=prompted)

for _version in ("2", "2.1"):
    for _size, _hiera in HIERA_SIZES.items():
        _name = f"sam{_version}-{_size}"
        _about = f"SAM {_version} on single frames; Hiera of widths {_hiera.dims}"
        _config = Sam2Config(trunk=_hiera)
        register(_name, Sam2, _config, _card(_name, _about, SAM2_PAPER), inputs=prompted)

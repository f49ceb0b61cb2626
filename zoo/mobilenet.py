"""What networks after MobileNetV3 (Howard et al., arXiv 1905.02244) are listed by."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    kernel: int
    inside: int  # channels between the two pointwise convolutions
    width: int  # channels that come out
    squeezed: int  # channels of the gate, 0 for none
    hard: bool  # hard swish in place of ReLU
    stride: int

"""Widths and depths of the ViT sizes, shared by teachers and students."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    dim: int
    depth: int
    heads: int


SIZES = {
    "mi": Size(128, 4, 4),
    "ti": Size(192, 12, 3),
    "s": Size(384, 12, 6),
    "b": Size(768, 12, 12),
    "l": Size(1024, 24, 16),
    "h": Size(1280, 32, 16),
}

"""XMem by name."""

from __future__ import annotations

from ..cards import register_tracker
from .model import XMem, XMemConfig

register_tracker(
    "xmem",
    XMemConfig(),
    "tracks objects shown by a mask, in three memories: what is felt, worked with and long known",
    "Cheng and Schwing, XMem (arXiv 2207.07115)",
    XMem,
)

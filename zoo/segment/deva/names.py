"""DEVA by name."""

from __future__ import annotations

from ..cards import register_tracker
from .model import Deva, DevaConfig

register_tracker(
    "deva",
    DevaConfig(),
    "carries the masks of any detector on through time, in three memories; detections are agreed on"
    " over a few frames (zoo.segment.deva.consensus)",
    "Cheng et al., DEVA (arXiv 2309.03903)",
    Deva,
)

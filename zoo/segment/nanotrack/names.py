"""NanoTrack by name."""

from __future__ import annotations

from ..cards import register_tracker
from .model import NanoTrack, NanoTrackConfig

register_tracker(
    "nanotrack-v2",
    NanoTrackConfig(),
    "follows objects shown by a box, 0.33 M parameters; masks are filled boxes",
    "HonglinChu/SiamTrackers, NanoTrack version 2; MobileNetV3 (arXiv 1905.02244)",
    NanoTrack,
    mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 255
    std=(1 / 255, 1 / 255, 1 / 255),
)

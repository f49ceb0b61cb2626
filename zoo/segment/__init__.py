"""Segmentation and tracking: SAM, SAM 2 and their small relatives."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .objects import Objects, PromptError
    from .outputs import ImageFeatures, SegmentOutput
    from .segmenter import Sam, Sam2, Sam2Config, SamConfig
    from .stream import Prompts, TrackCarry, Tracks, no_prompts
    from .tracker import Tracker, TrackerConfig

__all__ = [
    "ImageFeatures",
    "Objects",
    "PromptError",
    "Prompts",
    "Sam",
    "Sam2",
    "Sam2Config",
    "SamConfig",
    "SegmentOutput",
    "TrackCarry",
    "Tracker",
    "TrackerConfig",
    "Tracks",
    "no_prompts",
]
__getattr__ = on_demand(__name__, __file__)

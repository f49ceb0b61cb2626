"""Segmentation and tracking: SAM, SAM 2 and their small relatives."""

from . import convert_efficientsam as _convert_efficientsam
from . import convert_efficienttam as _convert_efficienttam
from . import convert_sam as _convert_sam  # registers the converters
from . import convert_video as _convert_video
from . import models as _models  # registers the names
from . import models_video as _models_video
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
del _convert_efficientsam, _convert_efficienttam, _convert_sam, _convert_video
del _models, _models_video

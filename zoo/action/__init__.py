"""Action detection: the offline teacher, and the causal students distilled from it."""

from . import convert_videomae as _convert  # registers the converter tables
from . import models as _models  # registers the names
from .outputs import ActionOutput
from .student import CausalViT, StudentConfig
from .teacher import VideoMAE, VideoMAEConfig
from .window import SlidingWindow, WindowConfig

__all__ = [
    "ActionOutput",
    "CausalViT",
    "SlidingWindow",
    "StudentConfig",
    "VideoMAE",
    "VideoMAEConfig",
    "WindowConfig",
]
del _convert, _models

"""Action detection: the offline teacher, and the causal students distilled from it."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .movinet.model import MoViNet, MoViNetConfig
    from .outputs import ActionOutput
    from .student.model import CausalViT, StudentConfig
    from .videomae.model import VideoMAE, VideoMAEConfig
    from .videomae.window import SlidingWindow, WindowConfig

__all__ = [
    "ActionOutput",
    "CausalViT",
    "MoViNet",
    "MoViNetConfig",
    "SlidingWindow",
    "StudentConfig",
    "VideoMAE",
    "VideoMAEConfig",
    "WindowConfig",
]
__getattr__ = on_demand(__name__, __file__)

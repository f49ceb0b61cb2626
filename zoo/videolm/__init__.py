"""Language models that see: an encoder of frames, a connector, and a decoder with its memory."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .connect import PixelShuffle, VideoProjector
    from .model import VideoLM, VideoLMConfig
    from .places import Picture, grid_places, text_places
    from .qwen_vision import QwenVision, QwenVisionConfig

__all__ = [
    "Picture",
    "PixelShuffle",
    "QwenVision",
    "QwenVisionConfig",
    "VideoLM",
    "VideoLMConfig",
    "VideoProjector",
    "grid_places",
    "text_places",
]
__getattr__ = on_demand(__name__, __file__)

"""Frame sources: files, cameras, RTSP and HLS addresses, WebRTC peers, and pushed frames."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .base import Frame, FrameSource, SourceError
    from .file import FileSource
    from .jitter import JitterBuffer
    from .live import LiveSource
    from .opening import open_source
    from .push import PushSource
    from .webrtc import WebRtcSource, answer_offer

__all__ = [
    "FileSource",
    "Frame",
    "FrameSource",
    "JitterBuffer",
    "LiveSource",
    "PushSource",
    "SourceError",
    "WebRtcSource",
    "answer_offer",
    "open_source",
]
__getattr__ = on_demand(__name__, __file__)

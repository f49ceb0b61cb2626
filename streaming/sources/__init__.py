"""Frame sources: files, cameras, RTSP and HLS addresses, WebRTC peers, and pushed frames."""

from .base import Frame, FrameSource, SourceError
from .feed import Feed
from .file import FileSource
from .jitter import JitterBuffer
from .live import LiveSource
from .opening import open_source
from .push import PushSource
from .webrtc import WebRtcSource, answer_offer

__all__ = [
    "Feed",
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

"""Packets -> pictures -> uint8 RGB arrays at the size a model wants."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter

from .base import Size


class Resizer:
    """Decoder frame -> uint8 RGB array, in swscale, bilinear.

    The algorithm is pinned: bilinear and area differ in pixels, and a model must see in service
    what it saw in training. The scaling context follows the frame, so a stream may change its
    resolution at any time.
    """

    def __init__(self):
        self._swscale = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, size: Size | None = None) -> np.ndarray:
        # Phones store portrait video lying down; the angle is counter-clockwise, as rot90 counts.
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        height, width = size or displayed_size(frame)
        if turns % 2:
            height, width = width, height
        unchanged = frame.format.name == "rgb24" and (frame.height, frame.width) == (height, width)
        rgb = self._swscale.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        image = rgb.to_ndarray()
        if turns:
            image = np.rot90(image, turns)
        elif unchanged:  # the decoder's own picture, which later frames may be predicted from
            image = image.copy()
        return np.ascontiguousarray(image)


def displayed_size(frame: av.VideoFrame) -> Size:
    """(height, width) of the frame as displayed, i.e. after its rotation mark."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)


def packets(container: Any, *streams: Any) -> Iterator[av.Packet]:
    """The container's packets, of these streams or all. Raises FFmpegError, OSError."""
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:  # PyAV does not know a track that appeared later: leave it out
            continue


class PacketDecoder:
    """Packets of one video stream -> pictures; all of them, or key frames only.

    Key frames only is the last step of shedding load: packets between them are not decoded at
    all, and counted in ``skipped``. Full decoding goes on at the next key frame after it was
    asked for again: what lies before was predicted from pictures that were never decoded.
    """

    def __init__(self, stream: av.VideoStream):
        self._context, self._time_base = stream.codec_context, stream.time_base
        self._to_key = False  # skipping, until a key frame
        self.skipped = 0

    def __call__(self, packet: av.Packet, keyframes_only: bool) -> list[av.VideoFrame]:
        """Raises FFmpegError: the packet is damaged."""
        self._to_key |= keyframes_only
        if not self._to_key or not packet.size:
            return self._context.decode(packet)
        if not packet.is_keyframe:
            self.skipped += 1
            return []
        if not keyframes_only:
            self._to_key = False
            return self._context.decode(packet)
        # A decoder holds pictures back to put them in order, or to work on several: fetch this
        # one now, not when the next key frame pushes it out.
        try:
            return self._context.decode(packet) + self._flush()
        finally:
            self._context.flush_buffers()

    def drain(self) -> list[av.VideoFrame]:
        """What the decoder still holds, where the demuxer did not flush it."""
        try:
            return self._flush()
        except (FFmpegError, OSError, ValueError):
            return []

    def _flush(self) -> list[av.VideoFrame]:
        pictures = self._context.decode(None)
        for picture in pictures:  # they take their time base from the packet, and there is none
            picture.time_base = self._time_base
        return pictures

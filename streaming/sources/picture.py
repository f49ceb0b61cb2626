"""Packets -> pictures -> uint8 RGB arrays at the size a model wants, as they are displayed."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter

from ...zoo.picture import picture as published
from ...zoo.registry import InputSize
from ...zoo.video import UPRIGHT, Orientation, of_exif, of_frame
from .base import Size, Wanted, sized


class Resizer:
    """Decoder frame -> uint8 RGB array, in swscale, bilinear, as the file says it is displayed.

    Upright and not mirrored (display matrix, or EXIF of a JPEG), and in square pixels: without a
    size, one side of a picture with other pixels grows, so that none of it is lost.

    The algorithm is pinned: bilinear and area differ in pixels, and a model must see in service
    what it saw in training. The scaling context follows the frame, so a stream may change its
    resolution at any time.

    Attributes:
      aspect: width / height of a stored pixel.
    """

    def __init__(self, aspect: float = 1.0):
        self._swscale = VideoReformatter()
        self.aspect = aspect

    def __call__(
        self, frame: av.VideoFrame, size: Wanted = None, orientation: Orientation | None = None
    ) -> np.ndarray:
        """uint8 RGB [h, w, 3] at ``size`` (height, width), default the displayed one.

        At the ``input_size`` of a card that says how its pictures were made: that picture; of a
        card that letterboxes as much of that size as it fills.
        """
        turned = of_frame(frame) if orientation is None else orientation
        if isinstance(size, InputSize) and size.card.own_rule:
            return published(self(frame, None, turned), size.card)
        height, width = sized(size, self.size(frame, turned))
        if turned.transposed:
            height, width = width, height
        unchanged = frame.format.name == "rgb24" and (frame.height, frame.width) == (height, width)
        rgb = self._swscale.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        image = rgb.to_ndarray()
        if turned != UPRIGHT:
            image = turned(image)
        elif unchanged:  # the decoder's own picture, which later frames may be predicted from
            image = image.copy()
        return np.ascontiguousarray(image)

    def size(self, frame: av.VideoFrame, orientation: Orientation | None = None) -> Size:
        """(height, width) of the frame as displayed: in square pixels, turned as it is marked."""
        height, width = frame.height, frame.width
        if self.aspect > 1:
            width = round(width * self.aspect)
        elif self.aspect < 1:
            height = round(height / self.aspect)
        turned = of_frame(frame) if orientation is None else orientation
        return (width, height) if turned.transposed else (height, width)


def is_animated_webp(data: bytes) -> bool:
    """Whether a picture file is one (WebP container specification, "Extended File Format")."""
    extended = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X"
    return extended and len(data) > 20 and bool(data[20] & 2)


def packets(container: InputContainer, *streams: Any) -> Iterator[av.Packet]:
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

    ``orientation``: of the newest picture, where its packet says it and its frame does not (the
    EXIF of a JPEG); else None.
    """

    def __init__(self, stream: av.VideoStream):
        self._context, self._time_base = stream.codec_context, stream.time_base
        self._jpeg = getattr(self._context, "name", "") == "mjpeg"
        self._to_key = False  # skipping, until a key frame
        self.skipped = 0
        self.orientation: Orientation | None = None

    def __call__(self, packet: av.Packet, keyframes_only: bool) -> list[av.VideoFrame]:
        """Raises FFmpegError: the packet is damaged."""
        self._to_key |= keyframes_only
        if self._jpeg and packet.size:
            self.orientation = of_exif(bytes(packet))
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

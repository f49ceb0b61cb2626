"""JPEG pictures: their size before anything is decoded, and their decoding, by FFmpeg."""

import re

import av
from av.error import FFmpegError

MAX_PIXELS = 4096 * 2304

# Start-of-frame markers carry the size (ITU-T T.81 table B.1); C4, C8 and CC are other things.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FILL = re.compile(rb"\xff*")

# What a client sends decides what it costs: without these, a few bytes could ask for any work.
MAX_SEGMENTS = 1024  # before the size; cameras and editors write under 30
MAX_SCANS = 128  # a progressive picture has about 10, and each goes over the whole picture
PIXELS_PER_BYTE = 512  # at least one bit for every 8 x 8 block (T.81 F.1.2)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the headers alone.

    Raises:
      ValueError: it is not a JPEG picture, or ends before its size.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG picture")
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        at = _FILL.match(data, at).end() - 1  # type: ignore[union-attr]
        if at + 4 > len(data):
            break
        marker = data[at + 1]
        if marker in _ALONE:
            at += 2
        elif marker in _FRAMES and at + 9 <= len(data):
            size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            if min(size) < 1:
                break
            return size
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    raise ValueError("a JPEG picture without a size: cut off, or damaged")


def check_work(data: bytes, size: tuple[int, int]) -> None:
    """Whether decoding costs what the bytes of such a picture may cost.

    Raises:
      ValueError: too few bytes for its size, or too many scans.
    """
    if size[0] * size[1] > PIXELS_PER_BYTE * len(data):
        raise ValueError(
            f"a JPEG picture of {size[1]} x {size[0]} in {len(data)} bytes: cut off, or damaged"
        )
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"a JPEG picture in {scans} scans; up to {MAX_SCANS} are taken")


class JpegDecoder:
    """JPEG bytes -> picture; made once per stream, used by one thread."""

    def __init__(self, max_pixels: int = MAX_PIXELS):
        """max_pixels: of a picture; headers may lie, the decoder has the last word."""
        self._context = av.CodecContext.create("mjpeg", "r")
        self._context.options = {"max_pixels": str(max_pixels)}
        self._context.thread_count = 1

    def __call__(self, data: bytes) -> av.VideoFrame | None:
        """None: it is too damaged to give a picture."""
        try:
            pictures = self._context.decode(av.Packet(data))
        except (FFmpegError, OSError, ValueError):
            self._context.flush_buffers()
            return None
        return pictures[0] if pictures else None

"""JPEG pictures: their size before anything is decoded, and their decoding, by FFmpeg."""

import av
from av.error import FFmpegError

MAX_PIXELS = 4096 * 2304

# Start-of-frame markers carry the size (ITU-T T.81 table B.1); C4, C8 and CC are other things.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the headers alone.

    Raises:
      ValueError: it is not a JPEG picture, or ends before its size.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG picture")
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES and at + 9 <= len(data):
            size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            if min(size) < 1:
                break
            return size
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    raise ValueError("a JPEG picture without a size: cut off, or damaged")


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

"""What a video file says about its pictures: which track they are, how they lie, the shape of their
pixels. Both who streams a file and who trains on it have to follow it, and FFmpeg's tool is the
oracle.

A picture may be turned by right angles, mirrored, or both. A display matrix (ISO 14496-12 6.2.2)
maps the stored x, y to a x + c y, b x + d y of the screen; EXIF has a number for each of the eight
cases (CIPA DC-008 4.6.4, tag 0x0112).
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from av.container import InputContainer

# A pixel wider than this, or narrower than its inverse, is a damaged mark and not a shape.
WIDEST = 8
DEFAULT, ATTACHED, TIMED_THUMBNAILS = 1, 0x400, 0x800  # AV_DISPOSITION_*


class Orientation(NamedTuple):
    """First rows become columns, if ``transposed``; then it is mirrored."""

    transposed: bool = False
    left_right: bool = False
    up_down: bool = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The picture [h, w, 3] as it is displayed; a view."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.up_down else 1, :: -1 if self.left_right else 1]


UPRIGHT = Orientation()
_EXIF = {
    2: Orientation(left_right=True),
    3: Orientation(left_right=True, up_down=True),
    4: Orientation(up_down=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, left_right=True),
    7: Orientation(transposed=True, left_right=True, up_down=True),
    8: Orientation(transposed=True, up_down=True),
}
_TURNS = (UPRIGHT, _EXIF[8], _EXIF[3], _EXIF[6])  # counter-clockwise quarters
SLANT = math.radians(1.0)  # an angle further than this from a right one is not applied


def of_matrix(matrix: np.ndarray) -> Orientation:
    """Of a display matrix, int32 [9]: a b u c d v x y w, 16.16 fixed point.

    As FFmpeg's tool turns: by right angles, within a degree. A slanting matrix stays upright,
    because the picture keeps its shape there.
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    if max(abs(b), abs(c)) <= math.sin(SLANT) * min(abs(a), abs(d)):
        return Orientation(False, a < 0, d < 0)
    if max(abs(a), abs(d)) <= math.sin(SLANT) * min(abs(b), abs(c)):
        return Orientation(True, c < 0, b < 0)
    return UPRIGHT


def of_frame(frame: Any) -> Orientation:
    """Of a decoded picture, by its display matrix."""
    angle = getattr(frame, "rotation", 0)
    try:
        data = frame.side_data
        matrix = next((d for d in data if d.type.name == "DISPLAYMATRIX"), None)
    except (ValueError, AttributeError):  # side data that this PyAV has no name for: the angle only
        turns = round(angle / 90)
        return _TURNS[turns % 4] if abs(angle - 90 * turns) <= math.degrees(SLANT) else UPRIGHT
    return UPRIGHT if matrix is None else of_matrix(np.frombuffer(bytes(matrix), np.int32))


def of_exif(jpeg: bytes) -> Orientation | None:
    """Of a JPEG file by its EXIF; None where it has none. The work does not grow with the file."""
    at = jpeg.find(b"Exif\0\0", 0, 1 << 16)  # in one of the first segments
    if at < 0:
        return None
    tiff = jpeg[at + 6 : at + 6 + (1 << 16)]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for k in range(min(count, 256)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * k)
            if tag == 0x0112 and kind == 3:
                return _EXIF.get(value, UPRIGHT)
    except struct.error:  # it ends before its end
        pass
    return None


def pixel_aspect(stream: Any) -> float:
    """Width / height of a video stream's pixels: the container's word, else the codec's, else 1."""
    aspect: Fraction | None = None
    for place in (stream, getattr(stream, "codec_context", None)):
        aspect = aspect or getattr(place, "sample_aspect_ratio", None)
    return float(aspect) if aspect and 1 / WIDEST <= aspect <= WIDEST else 1.0


def best_video(container: InputContainer) -> Any:
    """The video stream that FFmpeg's tool takes, or None: not a cover picture; the largest one, and
    those that are marked as default before all others."""
    streams = [s for s in container.streams.video if not is_cover(s)]
    if len(streams) < 2:
        return streams[0] if streams else None
    return max(streams, key=lambda s: s.width * s.height + 5_000_000 * _is(s, DEFAULT))


def is_cover(stream: Any) -> bool:
    """Whether a video stream is one picture that belongs to the sound (cover art)."""
    return _is(stream, ATTACHED | TIMED_THUMBNAILS)


def _is(stream: Any, disposition: int) -> bool:
    return bool(int(getattr(stream, "disposition", 0)) & disposition)

"""Small videos for tests, written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write(path: Path, frames: int = 30, rate: int = 10, size: tuple[int, int] = (48, 64)) -> Path:
    """Frame i is grey of level 5 * i + 20 throughout: its number can be read from its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 2_000_000
        for i in range(frames):
            image = np.full((*size, 3), level(i), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def level(i: int | np.ndarray) -> int | np.ndarray:
    return 5 * i + 20


def numbers(frames: np.ndarray) -> list[int]:
    """Which pictures of a file these frames [N, H, W, 3] are."""
    return [round((float(f.mean()) - 20) / 5) for f in frames]

"""Where words and pictures stand on three axes: time, height and width.

Sources: Bai et al., "Qwen2.5-VL Technical Report" (arXiv 2502.13923), section 2.1.2. Three rules
are in the wild for what stands behind a video, and for steps of time that are no whole numbers;
checkpoints are of one of them each, so both are options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AFTER = ("max", "spatial")
STEPS = ("float", "trunc")


@dataclass(frozen=True)
class Picture:
    """A video's tokens among those of a text.

    Attributes:
      grid: (time steps, rows, columns) of tokens.
      seconds: of one time step.
      rate: positions of a second.
    """

    grid: tuple[int, int, int]
    seconds: float = 1.0
    rate: float = 2.0


def text_places(start: int, count: int) -> np.ndarray:
    """Words from position ``start`` on: int32 [count, 3]."""
    return np.repeat(np.arange(start, start + count)[:, None], 3, axis=1).astype(np.int32)


def grid_places(start: int, picture: Picture, step: str = "float") -> np.ndarray:
    """A video from position ``start`` on: int32 [t * h * w, 3].

    ``step``: the time of step i is floor(i * seconds * rate) (``float``), or the step's own length
    is cut to a whole number first (``trunc``, transformers 4.5x), which for short steps is 0.

    Raises:
      ValueError: another word.
    """
    if step not in STEPS:
        raise ValueError(f"steps of time {step!r}: choose from {STEPS}")
    frames, rows, cols = picture.grid
    # the published code rounds in fp32: the product is cut, not each factor
    length = picture.seconds * picture.rate
    if step == "trunc":
        length = int(picture.seconds) * picture.rate
    time = np.floor(np.arange(frames) * length + 1e-6).astype(int)
    t, h, w = np.meshgrid(time, np.arange(rows), np.arange(cols), indexing="ij")
    return (start + np.stack([t, h, w], axis=-1).reshape(-1, 3)).astype(np.int32)


def places(
    parts: Sequence[int | Picture], start: int = 0, after: str = "max", step: str = "float"
) -> tuple[np.ndarray, int]:
    """Positions of a text with videos in it.

    Args:
      parts: numbers of words, and pictures, in their order.
      start: the first position.
      after: words behind a video stand behind all of it (``max``, the rule that checkpoints of 2025
        learned), or behind its longer side (``spatial``, transformers 5), inside its time.
      step: as of :func:`grid_places`.

    Returns:
      (int32 [N, 3], the position that follows).

    Raises:
      ValueError: another word.
    """
    if after not in AFTER:
        raise ValueError(f"words after a video {after!r}: choose from {AFTER}")
    found = [np.zeros((0, 3), np.int32)]
    for part in parts:
        if isinstance(part, Picture):
            found.append(grid_places(start, part, step))
            side = start + max(part.grid[1:])
            start = int(found[-1].max()) + 1 if after == "max" else side
        else:
            found.append(text_places(start, part))
            start += part
    return np.concatenate(found), start

"""Which frame sees which in a training pass: the student's causality, in one call over a clip.

Source: guandeh17/Self-Forcing, wan/modules/causal_model.py, the three ``_prepare_*_mask``.
"""

from __future__ import annotations

import numpy as np


def block_causal(frames: int, block: int, window: int | None = None, first: int = 0) -> np.ndarray:
    """Frames see their block and those before it: [frames, frames] bool, rows see columns.

    Args:
      frames: of the clip.
      block: frames of a block.
      window: frames that are seen, counted back from the end of the block; None: all.
      first: frames of the first block where it differs (1 for a picture to start from); 0: block.

    Raises:
      ValueError: blocks that do not divide the clip.
    """
    head = first or block
    if block < 1 or head > frames or (frames - head) % block:
        raise ValueError(f"{frames} frames are no first block of {head} and blocks of {block}")
    number = np.maximum(np.arange(frames) - head, -1) // block + 1
    end = head + number * block
    seen = np.arange(frames)[None] < end[:, None]
    if window is not None:
        seen &= np.arange(frames)[None] >= (end - window)[:, None]
    return seen


def teacher_forcing(frames: int, block: int) -> np.ndarray:
    """Clean frames and then noisy ones: [2 frames, 2 frames] bool.

    A clean frame sees the clean blocks up to its own; a noisy one its own noisy block and the clean
    blocks before it.
    """
    clean = block_causal(frames, block)
    number = np.arange(frames) // block
    own = number[:, None] == number[None]
    return np.block([[clean, np.zeros_like(clean)], [clean & ~own, own]])

"""A video as latents of balls: what moves in it is where a ball is, and how large.

Video to video: these latents are brought to a noise level in the middle and made anew.
"""

from __future__ import annotations

import numpy as np

from .picture import HIGH, LOW, SCALE, SHIFT, SIDE, WIDTHS

FINE = 4 * SIDE  # a side of the pictures that are looked at
STILL = 0.02  # of full brightness: less is noise of a camera
FORGETS = 0.1  # of the background, per frame


class Motion:
    """Frames of one video in turn -> latents.

    The background is a running mean of what was seen. Where nothing moves the ball stays where it
    was, and before anything has moved it is in the middle.
    """

    def __init__(self) -> None:
        self._background: np.ndarray | None = None
        self._ball = np.asarray([(LOW + HIGH) / 2] * 2 + [WIDTHS[1]] * 2)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [64, 64, 3] -> latent float32 [32].

        Raises:
          ValueError: a picture of another size.
        """
        if image.shape != (FINE, FINE, 3):
            raise ValueError(f"a picture {list(image.shape)}; motion is looked for in 64 x 64")
        grey = image.astype(np.float32).mean(axis=-1) / 255
        old = grey if self._background is None else self._background
        self._background = (1 - FORGETS) * old + FORGETS * grey
        cells = np.abs(grey - old).reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3))
        if cells.max() > STILL:
            self._ball = _ball(cells)
        across, down, wide, high = self._ball
        at = np.arange(SIDE)
        bump = lambda middle, width: np.exp(-0.5 * np.square((at - middle) / width))
        light = np.concatenate([bump(across, wide), bump(down, high)])
        return (SCALE * light + SHIFT).astype(np.float32)


def _ball(cells: np.ndarray) -> np.ndarray:
    """(column, row, width, height) of what moved most, in cells [16, 16]."""
    weight = np.square(np.maximum(cells - 0.3 * cells.max(), 0))
    weight /= weight.sum()
    at = np.arange(SIDE)
    middle = np.asarray([weight.sum(axis=0) @ at, weight.sum(axis=1) @ at])
    square = [weight.sum(axis=i) @ np.square(at - middle[i]) for i in (0, 1)]
    return np.concatenate(
        [np.clip(middle, LOW, HIGH), np.clip(np.sqrt(square), WIDTHS[0], WIDTHS[-1])]
    )

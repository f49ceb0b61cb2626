"""What a latent of the balls is: two profiles of brightness, and the picture that they make.

A frame is a ball of one of four widths. Its latent is the profile along x beside that along y, 16
numbers each; the picture is their product. So a latent has 32 numbers, one token, and a small
network makes video that can be measured without another network.
"""

from __future__ import annotations

import numpy as np

SIDE = 16  # cells a side of a picture
CLASSES = ("tiny", "small", "large", "huge")
WIDTHS = (0.6, 1.0, 1.6, 2.5)  # standard deviations of the classes, in cells
LOW, HIGH = 2.0, 13.0  # walls, where a ball's middle turns
FRAME_RATE = 12.0
SCALE, SHIFT = 2.5, -0.5  # a latent is scale * brightness + shift: about mean 0 and variance 1


def brightness(latents: np.ndarray) -> np.ndarray:
    """Latents [..., 32] -> profiles [..., 2, 16], 1 at a ball's middle."""
    parts = (np.asarray(latents, np.float32) - SHIFT) / SCALE
    return parts.reshape(*parts.shape[:-1], 2, SIDE)


def draw(latents: np.ndarray, size: int = 256) -> np.ndarray:
    """Latents [F, 32] -> pictures uint8 [F, size, size, 3]."""
    across, down = np.moveaxis(np.clip(brightness(latents), 0, 1), -2, 0)
    at = np.linspace(0, SIDE - 1, size)
    low = np.minimum(at.astype(int), SIDE - 2)
    share = (at - low).astype(np.float32)
    finer = lambda p: p[..., low] * (1 - share) + p[..., low + 1] * share
    light = finer(down)[..., :, None] * finer(across)[..., None, :]
    night, ball = np.asarray([18, 22, 40], np.float32), np.asarray([255, 196, 84], np.float32)
    return (night + light[..., None] * (ball - night)).astype(np.uint8)


def condition(name: str | None, text_dim: int = 8) -> np.ndarray:
    """What a network is told of a class, float32 [1, 1, text_dim]; None: nothing.

    Raises:
      ValueError: no class has this name.
    """
    told = np.zeros((1, 1, text_dim), np.float32)
    if name is None:
        return told
    if name not in CLASSES:
        raise ValueError(f"no class {name!r}; the classes are {', '.join(CLASSES)}")
    told[..., CLASSES.index(name)] = 1
    return told

"""The palm detector in front of a video model, frozen: one token of a frame, which says where the
surest palm and its seven points are."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from .model import PALM_POINTS, PalmConfig, PalmNet

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PalmStemConfig:
    """What is made of the frames, which have the detector's input size.

    Attributes:
      threshold: of the palm's score; below it there is no palm and the features are zeros. Lower
        than a detector's: the network behind it sees the score, and remembers what was before.
      scale: of the positions, which lie within -1/2 to 1/2 of the middle of the frame.
    """

    threshold: float = 0.2
    scale: float = 4.0
    dtype: DType = "float32"

    @property
    def palm(self) -> PalmConfig:
        """The detector's config."""
        return PalmConfig(slots=1, threshold=self.threshold, dtype=self.dtype)

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) of the only frames that it reads."""
        return self.palm.image_size

    @property
    def stride(self) -> int:
        """Pixels per cell of the features, which is the frame's side: there is one cell."""
        return self.palm.image_size[0]

    @property
    def width(self) -> int:
        """Channels: the score, the box's middle and size, the points."""
        return 1 + 4 + 2 * len(PALM_POINTS)


class PalmStem(nn.Module):
    """frames [..., H, W, 3] in 0..1 -> [..., 1, 1, F]; parameters are those of ``palm-lite``."""

    config: PalmStemConfig

    def setup(self):
        self.net = PalmNet(self.config.palm)
        nn.share_scope(self, self.net)

    def pyramid(self, frames: Array) -> Array:
        """The features, as every stem names them."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        found = self.net.find(flat)
        box, there = found.boxes[:, 0], found.valid[:, 0, None]
        middle, size = (box[:, 2:] + box[:, :2]) / 2 - 0.5, box[:, 2:] - box[:, :2]
        points = found.keypoints[:, 0, :, :2].reshape(flat.shape[0], -1) - 0.5
        every = jnp.concatenate([middle, size, points], axis=-1) * self.config.scale
        every = jnp.concatenate([found.scores[:, :1], every], axis=-1)
        return jnp.where(there, every, 0.0).reshape(*frames.shape[:-3], 1, 1, -1)


def move(points: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Features [T, 1, 1, F] as of a hand elsewhere: every position is turned by the
    matrix [2, 2] and shifted [2], in the features' own scale; sizes grow as the matrix does. A
    frame without a palm stays one."""
    there = points[..., :1] > 0
    x = points.astype(np.float32)
    pairs = x[..., 1:].reshape(*x.shape[:-1], -1, 2)
    moved = pairs @ turn.T + shift
    moved[..., 1, :] = pairs[..., 1, :] * np.sqrt(abs(np.linalg.det(turn)))
    out = np.concatenate([x[..., :1], moved.reshape(*x.shape[:-1], -1)], axis=-1)
    return np.where(there, out, 0).astype(points.dtype)

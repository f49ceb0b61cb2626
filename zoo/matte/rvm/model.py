"""Robust Video Matting: how much of each pixel is a person, with a memory of maps.

Source: Lin et al., "Robust High-Resolution Video Matting with Temporal Guidance" (arXiv
2108.11515), and equal to the authors' network on random weights. Their code and weights are
GPL-3.0: nothing of them is here, and ``streamzoo convert`` reads a checkpoint that you have.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.gaps import zero_invalid
from ....layers.streaming import DType
from ...checks import check_carry, check_frames
from ...ranges import Checked, Range, Size
from ..outputs import Matte
from .decoder import TOP, WIDTHS, Decoder, GuidedFilter, State, resized
from .trunk import Trunk

Array = jax.Array
MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
STD = np.asarray([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class RVMConfig(Checked):
    """Sizes.

    Attributes:
      image_size: (height, width) of the frames and of the matte.
      ratio: at which the network sees them, so that its longer side is 256 to 512 pixels; what it
        says is then sharpened by the whole frames. Both sides times the ratio must be whole.
    """

    image_size: Size = (288, 512)
    ratio: Annotated[float, Range(0, 1, above=True)] = 1.0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(abs(n * self.ratio - round(n * self.ratio)) > 1e-6 for n in self.image_size):
            raise ValueError(
                f"image_size={self.image_size} times ratio={self.ratio:g} should be whole numbers"
            )

    @property
    def inner(self) -> tuple[int, int]:
        """(height, width) of what the network sees."""
        height, width = self.image_size
        return round(height * self.ratio), round(width * self.ratio)


class RVM(nn.Module):
    """(carry, frames [B, T, H, W, 3] RGB in 0..1, valid) -> (carry, :class:`Matte`)."""

    config: RVMConfig
    task = "matte"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.trunk, self.decoder = Trunk(dtype), Decoder(dtype)
        self.narrow = nn.Conv(TOP, (1, 1), dtype=dtype)
        self.weigh = nn.Dense(TOP, use_bias=False, dtype=dtype)
        self.out = nn.Conv(4, (1, 1), dtype=dtype)
        self.sharpen = GuidedFilter(dtype)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> State:
        """Zeros for ``batch`` streams: maps at strides 16, 8, 4 and 2.

        Raises ValueError for a frame shape other than the config's ``image_size``.
        """
        if frame_shape is not None and tuple(frame_shape) != tuple(self.config.image_size):
            raise ValueError(
                f"frame_shape {tuple(frame_shape)}: this model takes {self.config.image_size};"
                " resize the frames, or create_model(name, image_size=...)"
            )
        sizes, size = [], self.config.inner
        for _ in range(4):
            size = -(-size[0] // 2), -(-size[1] // 2)
            sizes.append(size)
        return tuple(
            jnp.zeros((batch, *size, width // 2), jnp.float32)
            for size, width in zip(reversed(sizes), (TOP, *WIDTHS[:-1]), strict=True)
        )

    def __call__(
        self, carry: State, frames: Array, valid: Array | None = None
    ) -> tuple[State, Matte]:
        """The matte of T frames of B streams.

        Args:
          carry: of :meth:`init_carry` or the last call.
          frames: [B, T, *image_size, 3] RGB in 0..1.
          valid: [B, T] bool; a frame that is not valid leaves no trace.

        Raises:
          ValueError: frames of another size or type, or a carry that does not fit.
        """
        carry, _, alpha = self.whole(carry, frames, valid)
        came = jnp.ones(frames.shape[:2], bool) if valid is None else valid
        return carry, Matte(zero_invalid(alpha, valid), came)

    def whole(
        self, carry: State, frames: Array, valid: Array | None = None
    ) -> tuple[State, Array, Array]:
        """As :meth:`__call__`: (carry, the person's own colours [B, T, H, W, 3], alpha
        [B, T, H, W]), both 0 to 1."""
        check_frames(frames, 1, type(self).__name__)
        self.init_carry(1, (frames.shape[2], frames.shape[3]))
        check_carry(carry, lambda: self.init_carry(frames.shape[0]))
        lead, cfg = frames.shape[:2], self.config
        came = jnp.ones(lead, bool) if valid is None else valid
        fine = zero_invalid(frames, valid).reshape(-1, *frames.shape[2:]).astype(jnp.float32)
        small = fine if cfg.inner == cfg.image_size else resized(fine, cfg.inner)
        carry, answer, hidden = self._see(carry, small, came)
        if cfg.inner != cfg.image_size or self.is_initializing():
            answer = self.sharpen(fine, small, answer, hidden)
        colours = jnp.clip(answer[..., :3] + fine, 0, 1)
        split = lambda a: a.reshape(*lead, *a.shape[1:])
        return carry, split(colours), split(jnp.clip(answer[..., 3], 0, 1))

    def _see(self, carry: State, frames: Array, came: Array) -> tuple[State, Array, Array]:
        """Frames [B * T, h, w, 3] -> the states, what is to be added to the colours and alpha
        [B * T, h, w, 4], and what they were made of [B * T, h, w, 16]."""
        rank = (1, 1, 1, 3)
        *maps, top = self.trunk((frames - MEAN.reshape(rank)) / STD.reshape(rank))
        gate = nn.sigmoid(self.weigh(top.mean(axis=(1, 2))))
        top = nn.relu(self.narrow(top)) * gate[:, None, None]
        carry, hidden = self.decoder(carry, frames, [*maps, top], came)
        return carry, self.out(hidden).astype(jnp.float32), hidden.astype(jnp.float32)

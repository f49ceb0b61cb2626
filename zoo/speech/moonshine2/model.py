"""The encoder of Moonshine v2, which streams: features of speech with a fixed look-ahead.

Source: transformers' ``moonshine_streaming``. A causal stem makes 50 features a second; blocks
without positions see windows of 16 frames, and the outer ones 3 frames that are still to come, so
the features are final 12 frames, 240 ms, later. Text is the work of its decoder (:mod:`.words`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.signal.attention import Sliding
from ....layers.signal.emitted import Emitted, Series
from ....layers.signal.mel import moonshine_stem
from ....layers.streaming import Array, Carry, DType
from ....layers.transformer import BlockConfig
from ....layers.transformer.norms import layer_norm
from ...ranges import Checked, Count, Whole
from ..hearing import OfSamples, check_audio


@dataclasses.dataclass(frozen=True)
class MoonshineEncoderConfig(Checked):
    """Shapes of an encoder.

    Attributes:
      dim, hidden, heads: width of a feature, of the MLP, and heads.
      frame: samples of one frame of the stem; four make a feature.
      windows: of every block, how many frames it sees in front of a frame and behind it.
    """

    dim: Count = 320
    hidden: Count = 1280
    heads: Count = 8
    frame: Count = 80
    windows: tuple[tuple[Whole, Whole], ...] = (
        *((15, 3), (15, 3), (15, 0)),
        *((15, 0), (15, 3), (15, 3)),
    )
    dtype: DType = "float32"

    @property
    def block(self) -> BlockConfig:
        ratio = self.hidden / self.dim
        options: Any = dict(biased="", out_bias=False, mlp_ratio=ratio, eps=1e-5)
        return BlockConfig(self.dim, self.heads, dtype=self.dtype, **options)


class MoonshineEncoder(OfSamples):
    """[B, T] samples -> features [B, F, dim], one per 320 samples.

    Frame f is out when the samples of frame f + 12 are: nothing that was given is withdrawn.
    """

    config: MoonshineEncoderConfig
    task = "speech"
    cross_stream = False
    inputs = ("audio",)

    @nn.nowrap
    def body(self) -> Series:
        """Stem, blocks and norm, for what needs no parameters."""
        cfg = self.config
        blocks = (Sliding(cfg.block, *window, parent=None) for window in cfg.windows)
        return Series((moonshine_stem(cfg.dim, cfg.frame), *blocks), parent=None)

    def setup(self):
        cfg = self.config
        self.stem = moonshine_stem(cfg.dim, cfg.frame)
        self.blocks = [Sliding(cfg.block, *window) for window in cfg.windows]
        self.norm = layer_norm(1e-5, jnp.dtype(cfg.dtype))
        self.net = Series((self.stem, *self.blocks))

    def __call__(
        self, carry: tuple[Carry, ...], audio: Array, valid: Array | None = None
    ) -> tuple[tuple[Carry, ...], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, dim]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "Moonshine")
        carry, out = self.net(carry, audio, valid)
        return carry, self._normed(out)

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The last features; nothing is heard after them."""
        carry, rest = self.net.flush(carry)
        return carry, None if rest is None else self._normed(rest)

    def _normed(self, out: Emitted) -> Emitted:
        return out._replace(x=zero_invalid(self.norm(out.x), out.valid))

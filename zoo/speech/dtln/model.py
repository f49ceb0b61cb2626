"""DTLN: speech without its noise, 128 samples at a time.

Source: Westhausen and Meyer, "Dual-Signal Transformation LSTM Network for Real-Time Noise
Suppression" (arXiv 2005.07551), breizhn/DTLN (MIT). A first stage masks the spectrum's magnitude
and keeps its phase, a second one masks a learned transform of the result.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import numpy as np

from ....layers.lstm import LSTM
from ....layers.signal.spectrum import irfft, magnitude, rfft
from ....layers.streaming import Array, Carry
from ...ranges import Checked, Count
from ..enhancer import Enhancer


@dataclasses.dataclass(frozen=True)
class DTLNConfig(Checked):
    """Shapes of a DTLN: samples of a frame and between frames, LSTM units, learned features."""

    size: Count = 512
    hop: Count = 128
    hidden: Count = 128
    features: Count = 256


class Mask(nn.Module):
    """Two LSTMs and a sigmoid: [B, F, D] -> [B, F, width] from 0 to 1."""

    hidden: int
    width: int

    def setup(self):
        self.first, self.second = LSTM(self.hidden), LSTM(self.hidden)
        self.out = nn.Dense(self.width)

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        lstm = LSTM(self.hidden, parent=None)
        return lstm.init_carry(batch, 1), lstm.init_carry(batch, 1)

    def __call__(self, carry: tuple[Carry, Carry], x: Array, valid: Array):
        first, x = self.first(carry[0], x[:, :, None], valid)
        second, x = self.second(carry[1], x, valid)
        return (first, second), nn.sigmoid(self.out(x[:, :, 0]))


class Stages(nn.Module):
    """Both stages, frame by frame: [B, F, size] samples -> the same without noise."""

    config: DTLNConfig

    def setup(self):
        cfg = self.config
        self.spectral = Mask(cfg.hidden, cfg.size // 2 + 1)
        self.learned = Mask(cfg.hidden, cfg.features)
        self.encode = nn.Dense(cfg.features, use_bias=False)
        self.norm = nn.LayerNorm(1e-7, use_fast_variance=False)
        self.decode = nn.Dense(cfg.size, use_bias=False)

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        mask = Mask(self.config.hidden, 1, parent=None)
        return {"spectral": mask.init_carry(batch), "learned": mask.init_carry(batch)}

    def __call__(self, carry: dict[str, Carry], frames: Array, valid: Array):
        spectrum = rfft(np.ones(self.config.size))(frames)
        spectral, mask = self.spectral(carry["spectral"], magnitude(spectrum), valid)
        features = self.encode(irfft(spectrum * mask[..., None]))
        learned, mask = self.learned(carry["learned"], self.norm(features), valid)
        return {"spectral": spectral, "learned": learned}, self.decode(features * mask)


class DTLN(Enhancer[DTLNConfig]):
    """[B, T] samples -> as many without their noise; sample k comes at most 511 after it."""

    network = Stages

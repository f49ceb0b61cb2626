"""Silero VAD: every 512 samples, how likely it is that somebody speaks in them.

Source: Silero Team, "Silero VAD: pre-trained enterprise-grade Voice Activity Detector" (MIT,
snakers4/silero-vad, files silero_vad_16k_op15.onnx and silero_vad_16k.safetensors, whose weights
differ). A block is seen with the 64 samples before it; without them probabilities stay below 0.5.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.lstm import LSTM
from ....layers.ranks import to_rank
from ....layers.signal.emitted import Emitted
from ....layers.signal.spectrum import Frames, magnitude
from ....layers.streaming import Array, Carry, Fields
from ...ranges import Checked, Count
from ..hearing import check_audio


@dataclasses.dataclass(frozen=True)
class SileroConfig(Checked):
    """Shapes of a Silero VAD.

    Attributes:
      block: samples that one answer is about.
      context: samples before a block that are seen with it.
      window: samples of a spectrum, two of which overlap by half.
      widths: channels of the four convolutions.
    """

    block: Count = 512
    context: Count = 64
    window: Count = 256
    widths: tuple[Count, ...] = (128, 64, 64, 128)


class SileroVAD(nn.Module):
    """[B, T] samples -> probabilities [B, F] of speech, one per block of 512 samples.

    The answer to a block comes with its last sample, so its first one waits for 511 more. The LSTM
    remembers from the first block on; a fresh carry starts anew.
    """

    config: SileroConfig
    task = "speech"
    cross_stream = False
    inputs = ("audio",)

    @property
    def latency(self) -> int:
        """Samples from a block's first to its answer."""
        return self.config.block - 1

    @nn.nowrap
    def frames(self) -> Frames:
        """How audio is cut into blocks; a last one that is not full is filled up with zeros."""
        cfg = self.config
        return Frames(cfg.context + cfg.block, cfg.block, cfg.context, cfg.block - 1)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        """Answers after ``count`` samples."""
        return self.frames().emitted(count)

    @nn.nowrap
    def length(self, count: int) -> int:
        """Answers to a recording of ``count`` samples."""
        return self.frames().length(count)

    def setup(self):
        cfg = self.config
        self.cut = self.frames()
        bins, wide = cfg.window // 2 + 1, cfg.widths
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.basis = self.param("basis", init, (cfg.window, 2 * bins))
        inside = (bins, *wide)
        shapes = [(3, inside[i], wide[i]) for i in range(4)]
        self.kernels = [self.param(f"conv{i}_kernel", init, s) for i, s in enumerate(shapes)]
        self.offsets = [self.param(f"conv{i}_bias", zeros, s[-1:]) for i, s in enumerate(shapes)]
        self.lstm = LSTM(wide[-1])
        self.out = nn.Dense(1)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams that have heard nothing."""
        del frame_shape
        lstm = LSTM(self.config.widths[-1], parent=None).init_carry(batch, 1)
        return {"frames": self.frames().init_carry(batch), "lstm": lstm}

    def __call__(
        self, carry: dict[str, Carry], audio: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted of x [B, F]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "Silero VAD")
        frames, cut = self.cut(carry["frames"], audio, valid)
        return self._judge({**carry, "frames": frames}, cut)

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted]:
        """The answer to a last block that is not full, if there is one."""
        frames, cut = self.cut.flush(carry["frames"])
        assert cut is not None  # audio is cut into blocks: the last one is filled up
        return self._judge({**carry, "frames": frames}, cut)

    def _judge(self, carry: dict[str, Carry], cut: Emitted) -> tuple[Fields, Emitted]:
        x, window = cut.x, self.config.window
        x = jnp.pad(x, ((0, 0), (0, 0), (0, window // 4)), mode="reflect")
        first = jnp.arange(0, x.shape[-1] - window + 1, window // 2)
        place = first[:, None] + jnp.arange(window)[None]
        spectrum = x[..., place] @ self.basis  # [B, F, spectra, 2 * bins]
        pairs = spectrum.reshape(*spectrum.shape[:-1], 2, -1).swapaxes(-1, -2)
        x = magnitude(pairs).reshape(-1, pairs.shape[2], pairs.shape[3])
        for kernel, offset, stride in zip(self.kernels, self.offsets, (1, 2, 2, 1), strict=True):
            layout = ("NWC", "WIO", "NWC")
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride,), [(1, 1)], dimension_numbers=layout
            )
            x = nn.relu(x + to_rank(offset, x))
        x = x.reshape(*cut.valid.shape, -1, x.shape[-1]).mean(axis=2, keepdims=True)
        lstm, y = self.lstm(carry["lstm"], x, cut.valid)
        speech = nn.sigmoid(self.out(nn.relu(y)))[..., 0, 0]
        return {**carry, "lstm": lstm}, cut._replace(x=zero_invalid(speech, cut.valid))

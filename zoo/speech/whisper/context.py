"""Features of sound in the context of the last seconds: Whisper's encoder over a ring of samples.

After Soul-AILab/SoulX-FlashHead's temporal audio context cache (generate_video.py, commit 12467ce),
there with a wav2vec2: short pieces of sound have poor features by themselves, so with every piece
the encoder hears all of the last 8 s again, and of what it says the newest is taken, resampled to
the pictures that a talking head is drawn at, each with its neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ....layers.signal.context_ring import ContextRing, resampled
from ....layers.signal.emitted import Emitted
from ....layers.signal.mel import whisper_window
from ....layers.streaming import Array, Carry
from ...ranges import Count, Whole
from ..hearing import OfSamples, check_audio
from .model import HOP, Parts, WhisperConfig


@dataclasses.dataclass(frozen=True)
class ContextConfig(WhisperConfig):
    """Shapes of Whisper's, and of the ring in front of its encoder.

    Attributes:
      ring: features (20 ms each) that are heard at once, ``window`` at most.
      frames: pictures that they are resampled to.
      step: features between two hearings.
      take: pictures at the end of each hearing that are given.
      neighbours: pictures on both sides of each that are given with it.
    """

    ring: Count = 400
    frames: Count = 200
    step: Count = 48
    take: Count = 33
    neighbours: Whole = 2

    def __post_init__(self):
        super().__post_init__()
        if self.ring > self.window or self.take > self.frames or self.step > self.ring:
            raise ValueError(
                f"ring {self.ring}, window {self.window}, step {self.step}, take {self.take},"
                f" frames {self.frames}: step <= ring <= window, take <= frames"
            )


class WhisperContext(OfSamples, Parts):
    """[B, T] samples -> [B, F, 2 neighbours + 1, dim], ``take`` of them every ``step`` features.

    The parameters are Whisper's, its decoder's among them, so its files are read as they are.
    """

    config: ContextConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    cross_stream = False

    @nn.nowrap
    def body(self) -> ContextRing:
        """The ring, for what needs no parameters."""
        return self._ring(lambda x: x)

    @nn.nowrap
    def _ring(self, encode: Callable[[Array], Array]) -> ContextRing:
        c = self.config
        window, step = c.ring * HOP, c.step * HOP
        return ContextRing(encode, window, step, c.take, c.neighbours, parent=None)

    def features(self, audio: Array) -> Array:
        """A whole ring [B, ring samples] -> [B, frames, dim], without a stream."""
        x = self.of_spectra(whisper_window(audio, self.config.bands))
        return resampled(x, self.config.frames)

    def __call__(
        self, carry: dict[str, Carry], audio: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "WhisperContext")
        if self.is_initializing():
            x = self.features(carry["ring"])
            memory = self.begin(x, jnp.ones(x.shape[:2], bool), 1)
            self.write(memory, jnp.zeros((x.shape[0], 1), jnp.int32))
        return self._ring(self.features)(carry, audio, valid)

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted]:
        """The features of what waits, silence behind it."""
        return self._ring(self.features).flush(carry)

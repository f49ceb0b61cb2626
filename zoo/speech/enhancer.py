"""What models share that take the noise out of speech, frame by overlapping frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, TypeVar

import flax.linen as nn

from ...layers.signal.emitted import Emitted
from ...layers.signal.spectrum import Resynthesis
from ...layers.streaming import Array, Carry
from .hearing import OfSamples, check_audio


class Overlapping(Protocol):
    """A config of frames that overlap."""

    @property
    def size(self) -> int:
        """Samples of a frame."""
        ...

    @property
    def hop(self) -> int:
        """Samples from one frame's first to the next one's."""
        ...


Config = TypeVar("Config", bound=Overlapping)


class Enhancer(OfSamples, Generic[Config]):
    """[B, T] samples -> as many without their noise, through a network of their frames.

    A model of this kind says its config and its ``network``: made of the config, and what
    :class:`Resynthesis` asks for.
    """

    config: Config
    network: ClassVar[Callable[..., nn.Module]]
    task = "speech"
    cross_stream = False
    inputs = ("audio",)

    @nn.nowrap
    def body(self) -> Resynthesis:
        """Frames, network, overlap-add, without parameters."""
        cfg = self.config
        return Resynthesis(self.network(cfg, parent=None), cfg.size, cfg.hop, parent=None)

    def setup(self):
        cfg = self.config
        self.net = Resynthesis(self.network(cfg), cfg.size, cfg.hop)

    def __call__(
        self, carry: Carry, audio: Array, valid: Array | None = None
    ) -> tuple[Carry, Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted of samples).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, type(self).__name__)
        return self.net(carry, audio, valid)

    def flush(self, carry: Carry) -> tuple[Carry, Emitted]:
        """The last samples; silence is heard after them."""
        return self.net.flush(carry)

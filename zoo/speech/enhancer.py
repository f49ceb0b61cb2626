"""What models share that take the noise out of speech, frame by overlapping frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, TypeVar

import flax.linen as nn

from ...layers.signal.emitted import Emitted
from ...layers.signal.spectrum import Resynthesis
from ...layers.streaming import Array, Carry
from .hearing import check_audio


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


class Enhancer(nn.Module, Generic[Config]):
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

    @property
    def latency(self) -> int:
        """Samples until one is final."""
        return self.body().latency

    @nn.nowrap
    def emitted(self, count: int) -> int:
        """Samples that are out after ``count``."""
        return self.body().emitted(count)

    @nn.nowrap
    def length(self, count: int) -> int:
        """Samples of a recording of ``count``: all."""
        return self.body().length(count)

    def setup(self):
        cfg = self.config
        self.net = Resynthesis(self.network(cfg), cfg.size, cfg.hop)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams that have heard nothing."""
        del frame_shape
        return self.body().init_carry(batch)

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

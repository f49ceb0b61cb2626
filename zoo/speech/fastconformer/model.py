"""Cache-aware FastConformer: features of speech, 12.5 per second, and what is said in them.

Source: Noroozi et al., "Stateful Conformer with Cache-based Inference for Streaming Automatic
Speech Recognition" (arXiv 2312.17279); the numbers are those of NVIDIA-NeMo/NeMo and of
transformers' ``nemotron_asr_streaming``. One set of weights serves every look-ahead: a model is
trained with several and run with the one that its user can wait for.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ....layers.lstm import LSTM, LSTMState
from ....layers.signal.bands import BandConv
from ....layers.signal.conformer import Conformers
from ....layers.signal.emitted import Each, Emitted, Series
from ....layers.signal.mel import nemo_log_mel
from ....layers.streaming import Array, Carry, DType
from ....layers.transformer import BlockConfig
from ...ranges import Checked, Count, Whole
from ..hearing import OfSamples, check_audio

AHEAD = (0, 1, 6, 13)  # frames of 80 ms that the published models are trained to look ahead
STRIDE = 1280  # samples of a frame


@dataclasses.dataclass(frozen=True)
class FastConformerConfig(Checked):
    """Shapes of a recogniser.

    Attributes:
      dim, hidden, heads, depth: width of a frame and of the MLPs, heads and blocks.
      bands, channels: of the spectrum, and of the convolutions that subsample it.
      kernel: taps of a block's convolution.
      before, ahead: frames of 80 ms that attention sees of the past and of the future; ``ahead``
        changes no weight.
      scaled: frames are multiplied by the root of ``dim`` in front of the blocks.
      vocabulary: tokens, the blank not counted, whose number is ``vocabulary``.
      ctc: there is a CTC head.
      predictor, layers: width and LSTM layers of a transducer's prediction network; 0 layers: there
        is no transducer.
      most: tokens that a transducer says at one frame.
    """

    dim: Count = 512
    hidden: Count = 2048
    heads: Count = 8
    depth: Count = 17
    bands: Count = 80
    channels: Count = 256
    kernel: Count = 9
    before: Count = 70
    ahead: Whole = 13
    scaled: bool = True
    vocabulary: Count = 1024
    ctc: bool = True
    predictor: Count = 640
    layers: Whole = 1
    most: Count = 10
    dtype: DType = "float32"

    def __post_init__(self):
        super().__post_init__()
        if not self.ctc and not self.layers:
            raise ValueError("a recogniser needs a head: ctc=True, layers of a predictor, or both")
        if self.before <= self.ahead:
            raise ValueError(
                f"before {self.before} should be at least ahead + 1 = {self.ahead + 1}: a chunk"
                " would see no other"
            )

    @property
    def block(self) -> BlockConfig:
        ratio = self.hidden / self.dim
        options: Any = dict(mlp_ratio=ratio, activation="silu", eps=1e-5, dtype=self.dtype)
        return BlockConfig(self.dim, self.heads, **options)

    @property
    def blank(self) -> int:
        return self.vocabulary


class Frame(nn.Module):
    """A spectrum's bands and channels -> one vector, channels outermost as published.

    [..., N, C] -> [..., dim].
    """

    dim: int
    gain: float
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        flat = x.swapaxes(-1, -2).reshape(*x.shape[:-2], -1)
        return nn.Dense(self.dim, dtype=self.dtype, name="dense")(flat) * self.gain


class Transducer(nn.Module):
    """A prediction network of what was said, and what joins it with what is heard."""

    config: FastConformerConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        dense = lambda width: nn.Dense(width, dtype=dtype)
        self.embed = nn.Embed(c.vocabulary + 1, c.predictor, dtype=dtype)
        self.lstm = [LSTM(c.predictor, dtype=dtype) for _ in range(c.layers)]
        self.heard, self.said = dense(c.predictor), dense(c.predictor)
        self.head = dense(c.vocabulary + 1)

    def predict(self, states: tuple[LSTMState, ...], tokens: Array):
        """tokens [B, U], the blank at the start of a text -> (states, [B, U, P] after each)."""
        x, after = self.embed(tokens)[:, :, None], []
        for lstm, state in zip(self.lstm, states, strict=True):
            state, x = lstm(state, x)
            after.append(state)
        return tuple(after), self.said(x[:, :, 0])

    def __call__(self, heard: Array, said: Array) -> Array:
        """heard [..., P] and said [..., P], which are broadcast -> logits [..., V + 1]."""
        return self.head(nn.relu(heard + said))


class FastConformer(OfSamples):
    """[B, T] samples -> features [B, F, dim], one per 1280 samples.

    ``ctc`` and ``lattice`` turn features into logits; :mod:`.recognise` into tokens, as a stream.
    """

    config: FastConformerConfig
    task = "speech"
    cross_stream = False
    inputs = ("audio",)

    @nn.nowrap
    def encoder(self, root: bool = False) -> Series:
        """Subsampling and blocks; ``root`` for what needs no parameters."""
        c = self.config
        free: Any = {"parent": None} if root else {}
        wide: Any = dict(kernel=3, stride=2, padding=(2, 1), around=(2, 1), dtype=c.dtype, **free)
        convs = [BandConv(1, c.channels, bands=c.bands, **wide)]
        layers: list[Any] = [Each(lambda x: x[..., None], **free), convs[0], Each(nn.relu, **free)]
        for _ in range(2):
            own = dict(bands=convs[-1].bands_out, groups=c.channels)
            convs.append(BandConv(c.channels, c.channels, **own, **wide))
            layers += [convs[-1], Each(nn.Dense(c.channels, dtype=c.dtype, **free), **free)]
            layers.append(Each(nn.relu, **free))
        gain = math.sqrt(c.dim) if c.scaled else 1.0
        layers.append(Each(Frame(c.dim, gain, c.dtype, **free), **free))
        return Series((*layers, *self.blocks(**free)), **free)

    @nn.nowrap
    def blocks(self, **free: Any) -> tuple[Any, ...]:
        """What comes behind the subsampling, signal layers of frames [B, F, dim]."""
        c = self.config
        return (Conformers(c.block, c.depth, c.kernel, c.before, c.ahead, **free),)

    @nn.nowrap
    def body(self) -> Series:
        """The front end and the encoder, for what needs no parameters."""
        return Series((nemo_log_mel(self.config.bands), self.encoder(True)), parent=None)

    def setup(self):
        c = self.config
        self.mel, self.net = nemo_log_mel(c.bands), self.encoder()
        if c.ctc:
            self.ctc_head = nn.Dense(c.vocabulary + 1, dtype=jnp.dtype(c.dtype))
        if c.layers:
            self.transducer = Transducer(c)

    def __call__(
        self, carry: tuple[Carry, ...], audio: Array, valid: Array | None = None
    ) -> tuple[tuple[Carry, ...], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, dim]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "FastConformer")
        carry, out = Series((self.mel, self.net), parent=None)(carry, audio, valid)
        if self.is_initializing():
            self._touch(out.x)
        return carry, out

    def encode(self, carry: tuple[Carry, ...], mel: Array, valid: Array | None = None):
        """Spectra [B, T, bands], as the front end makes them -> (the encoder's carry, Emitted)."""
        return self.net(carry, mel, valid)

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The last features; nothing is heard after them."""
        return Series((self.mel, self.net), parent=None).flush(carry)

    def ctc(self, x: Array) -> Array:
        """Features [..., dim] -> logits [..., V + 1] of the token at each, the blank the last."""
        return self.ctc_head(x)

    def heard(self, x: Array) -> Array:
        """Features [..., dim] -> what the transducer joins, [..., P]."""
        return self.transducer.heard(x)

    @nn.nowrap
    def said_nothing(self, batch: int) -> tuple[LSTMState, ...]:
        """The states of a prediction network before a text."""
        c = self.config
        lstm = LSTM(c.predictor, parent=None)
        return tuple(lstm.init_carry(batch, 1) for _ in range(c.layers))

    def predict(self, states: tuple[LSTMState, ...], tokens: Array):
        """As :meth:`Transducer.predict`."""
        return self.transducer.predict(states, tokens)

    def join(self, heard: Array, said: Array) -> Array:
        """As :class:`Transducer`."""
        return self.transducer(heard, said)

    def lattice(self, x: Array, tokens: Array) -> Array:
        """Features [B, F, dim] and tokens [B, U] -> the transducer's logits [B, F, U + 1, V + 1],
        for :func:`streamzoo.train.alignment.transducer_loss`."""
        c = self.config
        begun = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=c.blank)
        _, said = self.predict(self.said_nothing(tokens.shape[0]), begun)
        return self.join(self.heard(x)[:, :, None], said[:, None])

    def _touch(self, x: Array) -> None:
        """Makes the parameters of the heads."""
        if self.config.ctc:
            self.ctc(x)
        if self.config.layers:
            self.lattice(x, jnp.zeros((x.shape[0], 1), jnp.int32))

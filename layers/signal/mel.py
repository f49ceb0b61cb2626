"""Front ends of speech recognisers, as streams: Whisper's and NeMo's log-mel, Moonshine's learned.

Where a published front end looks at the whole utterance, the stream cannot: Whisper holds values
within 8 (80 dB) of the utterance's loudest, ``Peak`` within 8 of the loudest so far.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import zero_invalid
from ..streaming import Array
from .conv import Conv
from .emitted import Each, FrameForFrame, Series, whole
from .spectrum import Frames, hann, rfft


def mel_filters(size: int, bands: int, rate: int = 16_000) -> np.ndarray:
    """Triangles of equal area over the mel scale of Slaney's Auditory Toolbox (1998), up to half
    the rate: [size / 2 + 1, bands], for spectra of ``size`` samples at ``rate`` per second."""
    step = np.log(6.4) / 27  # linear to 1000 Hz, 15 mel, then logarithmic

    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (np.maximum(mel, 15) - 15)))

    top = 15 + np.log(rate / 2 / 1000) / step if rate > 2000 else rate / 2 * 3 / 200
    edges = hertz(np.linspace(0, top, bands + 2))
    bins = np.linspace(0, rate / 2, size // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    up, down = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(up, down)) * 2 / (high - low)


class Peak(FrameForFrame):
    """Values held within ``depth`` of the largest so far: [B, F, N] -> [B, F, N].

    It stands for Whisper's largest of a whole utterance, which a stream cannot know: frames before
    the loudest differ from the offline front end's, those after it do not.
    """

    depth: float
    floor: float  # no value is below it

    @nn.nowrap
    def init_carry(self, batch: int) -> Array:
        return jnp.full((batch,), self.floor, jnp.float32)

    def __call__(self, carry: Array, x: Array, valid: Array | None = None):
        given = whole(x, valid)
        loud = jnp.where(given.valid, given.x.max(axis=-1), self.floor)
        peak = jnp.maximum(jax.lax.cummax(loud, axis=1), carry[:, None])
        y = jnp.maximum(given.x, peak[..., None] - self.depth)
        return peak[:, -1], given._replace(x=zero_invalid(y, valid))


def whisper_log_mel(bands: int = 80) -> Series:
    """16 kHz audio [B, T] -> Whisper's features [B, F, bands], 100 per second, 199 samples late.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv
    2212.04356) and openai/whisper, whisper/audio.py. Its ``max - 8`` is of the whole utterance,
    ours of what was heard so far (:class:`Peak`).
    """
    return Series(
        (
            Frames(400, 160, 200, 199, reflect=True),
            Each(_whisper_bands(bands)),
            Peak(8.0, -10.0),
            Each(lambda x: (x + 4) / 4),
        )
    )


def whisper_window(audio: Array, bands: int = 80) -> Array:
    """A whole window of 16 kHz audio [B, T] -> Whisper's features [B, T / 160, bands], held within
    8 of the window's loudest as published; T is a multiple of 160."""
    padded = jnp.pad(audio.astype(jnp.float32), ((0, 0), (200, 200)), mode="reflect")
    place = np.arange(audio.shape[1] // 160)[:, None] * 160 + np.arange(400)
    x = _whisper_bands(bands)(padded[:, place])
    return (jnp.maximum(x, x.max(axis=(1, 2), keepdims=True) - 8.0) + 4) / 4


def _whisper_bands(bands: int) -> Callable[[Array], Array]:
    """A function of frames [..., 400] -> log10 of the power in each band, [..., bands]."""
    filters = jnp.asarray(mel_filters(400, bands), jnp.float32)
    spectrum = rfft(hann(400))

    def log_mel(frames: Array) -> Array:
        power = (spectrum(frames) ** 2).sum(axis=-1)
        return jnp.log10(jnp.maximum(power @ filters, 1e-10))

    return log_mel


def nemo_log_mel(bands: int = 80, emphasis: float = 0.97) -> Series:
    """16 kHz audio [B, T] -> NeMo's features [B, F, bands], 100 per second, 255 samples late.

    Without the normalisation per utterance, as NeMo's streaming models are trained. Source:
    NVIDIA-NeMo/NeMo, nemo/collections/asr/parts/preprocessing/features.py.
    """
    filters = jnp.asarray(mel_filters(512, bands), jnp.float32)
    window = np.pad(hann(400, periodic=False), 56)
    spectrum = rfft(window)

    def log_mel(frames: Array) -> Array:
        power = (spectrum(frames) ** 2).sum(axis=-1)
        return jnp.log(power @ filters + 2.0**-24)

    return Series((Emphasis(emphasis), Frames(512, 160, 256, 255), Each(log_mel)))


class Emphasis(FrameForFrame):
    """y[t] = x[t] - factor * x[t - 1], the first sample as it is. [B, T] -> [B, T]."""

    factor: float

    def setup(self):
        self.pairs = Frames(2, 1, 1)

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        return Frames(2, 1, 1, parent=None).init_carry(batch)

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array | None = None):
        carry, out = self.pairs(carry, x, valid)
        return carry, out._replace(x=out.x[..., 1] - self.factor * out.x[..., 0])


class Embed(nn.Module):
    """One frame of samples -> features: centred, scaled to unit power, compressed, projected.

    [..., n] -> silu(asinh(exp(log_k) * x) @ kernel), [..., dim].
    """

    samples: int
    dim: int

    def setup(self):
        self.log_k = self.param("log_k", lambda _: jnp.log(jnp.float32(0.75)))
        init = nn.initializers.lecun_normal()
        self.kernel = self.param("kernel", init, (self.samples, self.dim))

    def __call__(self, frames: Array) -> Array:
        x = frames - frames.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
        return nn.silu(jnp.arcsinh(jnp.exp(self.log_k) * x) @ self.kernel)


def moonshine_stem(dim: int, frame: int = 80) -> Series:
    """16 kHz audio [B, T] -> features [B, F, dim], 50 per second, of whole frames and causal.

    Source: Moonshine v2's streaming encoder, transformers' ``moonshine_streaming``. Unlike there,
    frames that are missing or padding do not spread through the convolutions.
    """
    return Series(
        (
            Frames(frame, frame),
            Each(Embed(frame, dim)),
            Conv(dim, 2 * dim, 5, 2, (4, 0)),
            Each(nn.silu),
            Conv(2 * dim, dim, 5, 2, (4, 0)),
        )
    )

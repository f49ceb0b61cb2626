"""Short-time spectra of streams, there and back: frames of samples, their FFT, overlap-add.

Audio is [B, T] samples, any T >= 1; what is left over until the next frame waits in the carry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, window_at, zero_invalid
from ..ranks import to_rank
from ..streaming import Array, Carry
from .conv import Tail, advance, init_tail
from .emitted import Emitted


def hann(size: int, periodic: bool = True) -> np.ndarray:
    """The window of Hann, [size]; periodic is that of spectra, otherwise both ends are 0."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size if periodic else size - 1))


class Frames(nn.Module):
    """[B, T] samples -> overlapping frames [B, F, size], one every ``hop`` samples.

    Attributes:
      before: samples that the first frame sees before the first sample; zeros, or with
        ``reflect`` the mirrored beginning.
      after: zeros behind the last sample, for the last frames of a stream that ends.

    Raises:
      ValueError: ``before`` or ``after`` as long as a frame, or a mirror longer than what a frame
        sees. (A window that begins with 0 may mirror half of a frame.)
    """

    size: int
    hop: int
    before: int = 0
    after: int = 0
    reflect: bool = False

    def __post_init__(self):
        if not (0 <= self.before < self.size and 0 <= self.after < self.size and self.hop > 0):
            raise ValueError(f"padding of {self} should lie in 0 .. {self.size - 1}, hop above 0")
        if self.reflect and 2 * self.before > self.size:
            raise ValueError(f"{self} mirrors {self.before} samples, more than half of a frame")
        super().__post_init__()

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.after)

    @property
    def latency(self) -> int:
        return self.after

    @property
    def rate(self) -> Fraction:
        return Fraction(1, self.hop)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, (count + self.before - self.size) // self.hop + 1)

    @nn.nowrap
    def length(self, count: int) -> int:
        return self.emitted(count + self.after)

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return math.ceil((late + self.after) / self.hop)

    @property
    def mirrored(self) -> int:
        """Frames that see samples before the first."""
        return -(-self.before // self.hop) if self.reflect else 0

    @nn.nowrap
    def init_carry(self, batch: int) -> Tail:
        carry = init_tail(batch, self.size, self.size - self.before, (), jnp.float32)
        count = {"frame": jnp.zeros((batch,), jnp.int32)} if self.reflect else {}
        return carry | count

    def __call__(self, carry: Tail, x: Array, valid: Array | None = None) -> tuple[Tail, Emitted]:
        """x [B, T], valid [B, T] -> (carry, Emitted [B, ceil(T / hop), size])."""
        after, inputs, out = advance(carry, x, valid, self.size, self.hop)
        frames = out.valid.shape[1]
        place = np.arange(frames)[:, None] * self.hop + np.arange(self.size)  # [F, size]
        y = inputs[:, place]
        if self.reflect:
            number = carry["frame"][:, None] + jnp.arange(frames)[None]
            early = jnp.maximum(self.before - number * self.hop, 0)[..., None]  # samples before 0
            at = jnp.arange(self.size)[None, None]
            at = jnp.where(at < early, jnp.minimum(2 * early - at, self.size - 1), at)
            y = jnp.take_along_axis(y, at, axis=2)
            # never beyond the last that is mirrored: no counter grows
            seen = carry["frame"] + out.valid.sum(axis=1, dtype=jnp.int32)
            after["frame"] = jnp.minimum(seen, self.mirrored)
        return after, out._replace(x=zero_invalid(y, out.valid))

    def flush(self, carry: Tail) -> tuple[Tail, Emitted | None]:
        """The frames that zeros behind the last sample complete."""
        if not self.after:
            return carry, None
        return self(carry, jnp.zeros((carry["left"].shape[0], self.after), jnp.float32))


class OverlapAdd(nn.Module):
    """Frames [B, F, size] that lie ``hop`` apart -> their sum as samples [B, F * hop].

    A sample is the sum over the frames that cover it, and comes with the last of them. ``skip``
    samples at the beginning are left out: those before the first sample of the frames' maker.
    """

    size: int
    hop: int
    skip: int = 0

    def __post_init__(self):
        if self.size % self.hop or not 0 <= self.skip <= self.size - self.hop:
            raise ValueError(
                f"{self}: hop should divide size, and skip be at most {self.size - self.hop}"
            )
        super().__post_init__()

    @property
    def taps(self) -> int:
        return self.size // self.hop

    @property
    def rest(self) -> int:
        """Samples that only the last frames cover."""
        return self.size - self.hop - self.skip

    @property
    def lookahead(self) -> Fraction:
        return Fraction(math.ceil(self.rest / self.hop))

    @property
    def latency(self) -> int:
        return math.ceil(self.lookahead)

    @property
    def rate(self) -> Fraction:
        return Fraction(self.hop)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, count * self.hop - self.skip)

    @nn.nowrap
    def length(self, count: int) -> int:
        return max(0, count * self.hop - self.skip + self.rest) if count else 0

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return self.skip + late * self.hop

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        return {
            "tail": jnp.zeros((batch, self.taps - 1, self.size), jnp.float32),
            "skip": jnp.full((batch,), self.skip, jnp.int32),
            "begun": jnp.zeros((batch,), bool),
        }

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array | None = None):
        """x [B, F, size], valid [B, F] -> (carry, Emitted [B, F * hop])."""
        dense = compact(x, valid)
        history = jnp.concatenate([carry["tail"], dense.x], axis=1)
        steps, hop = x.shape[1], self.hop
        parts = []
        for back in range(self.taps):  # the frame ``back`` before gives its piece of that number
            first = self.taps - 1 - back
            parts.append(history[:, first : first + steps, back * hop : (back + 1) * hop])
        y = sum(parts[1:], start=parts[0]).reshape(x.shape[0], steps * hop)
        number = jnp.arange(steps * hop)[None]
        here = (number >= carry["skip"][:, None]) & (number < dense.fresh[:, None] * hop)
        after = {
            "tail": window_at(history, dense.fresh, self.taps - 1),
            "skip": jnp.maximum(carry["skip"] - dense.fresh * hop, 0),
            "begun": carry["begun"] | (dense.fresh > 0),
        }
        at = jnp.where(here, jnp.repeat(dense.order, hop, axis=1), 0)
        return after, Emitted(zero_invalid(y, here), here, at)

    def flush(self, carry: dict[str, Array]) -> tuple[dict[str, Array], Emitted | None]:
        """The samples that no later frame would have added to."""
        if not self.rest:
            return carry, None
        batch, more = carry["skip"].shape[0], -(-self.rest // self.hop)
        after, out = self(carry, jnp.zeros((batch, more, self.size), jnp.float32))
        here = out.valid & (jnp.arange(more * self.hop) < self.size - self.hop)[None]
        here = here & carry["begun"][:, None]
        return after, Emitted(zero_invalid(out.x, here), here, out.at)


class Resynthesis(nn.Module):
    """Audio through a network of its frames, and back: as many samples as came, each in its place.

    Attributes:
      net: ``(carry, frames [B, F, size], valid [B, F]) -> (carry, frames [B, F, size])``, the carry
        law over frames, with ``init_carry(batch)``.
      size, hop: of the frames; every sample is covered size / hop times.

    The frames begin size - hop zeros before the first sample, so sample k comes ``latency`` samples
    after it at the latest: it waits for the last frame that covers it.
    """

    net: Any
    size: int
    hop: int

    @property
    def before(self) -> int:
        return self.size - self.hop

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.size - 1)

    @property
    def latency(self) -> int:
        return self.size - 1

    @property
    def rate(self) -> Fraction:
        return Fraction(1)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, count // self.hop * self.hop - self.before)

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late + self.before

    def setup(self):
        self.frames = Frames(self.size, self.hop, self.before, self.size - 1)
        self.join = OverlapAdd(self.size, self.hop, self.before)

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        return {
            "frames": Frames(self.size, self.hop, self.before).init_carry(batch),
            "net": self.net.init_carry(batch),
            "join": OverlapAdd(self.size, self.hop, self.before).init_carry(batch),
        }

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        """x [B, T], valid [B, T] -> (carry, Emitted [B, ceil(T / hop) * hop])."""
        frames, cut = self.frames(carry["frames"], x, valid)
        net, y = self.net(carry["net"], cut.x, cut.valid)
        join, out = self.join(carry["join"], zero_invalid(y, cut.valid), cut.valid)
        at = jnp.take_along_axis(cut.at, out.at, axis=1)
        return {"frames": frames, "net": net, "join": join}, out._replace(at=at)

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted]:
        """The samples that are still missing; zeros are heard after the last."""
        left = carry["frames"]["left"]  # samples until the next frame
        after, out = self(carry, jnp.zeros((left.shape[0], self.size - 1), jnp.float32))
        ends = self.hop - left + self.before  # samples from the last frame's first to the end
        here = out.valid & (jnp.arange(out.x.shape[1])[None] < ends[:, None])
        return after, Emitted(zero_invalid(out.x, here), here, out.at)


def magnitude(spectrum: Array) -> Array:
    """|z| of pairs (real, imaginary) on the last axis, with a gradient at 0."""
    square = (spectrum**2).sum(axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def rfft(window: np.ndarray, size: int | None = None) -> Callable[[Array], Array]:
    """A function of frames [..., n] -> [..., size / 2 + 1, 2]: the spectrum of windowed frames,
    real and imaginary parts. ``window`` [n]; ``size`` pads frames with zeros behind."""
    size = size or len(window)
    weights = jnp.asarray(window, jnp.float32)

    def spectrum(frames: Array) -> Array:
        z = jnp.fft.rfft(frames.astype(jnp.float32) * to_rank(weights, frames), n=size)
        return jnp.stack([z.real, z.imag], axis=-1)

    return spectrum


def irfft(spectrum: Array, window: np.ndarray | None = None) -> Array:
    """[..., size / 2 + 1, 2] -> windowed frames [..., size]."""
    frames = jnp.fft.irfft(jax.lax.complex(spectrum[..., 0], spectrum[..., 1]))
    if window is None:
        return frames
    return frames * to_rank(jnp.asarray(window, jnp.float32), frames)

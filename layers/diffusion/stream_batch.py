"""StreamDiffusion's stream batch: every frame of the batch at another noise level.

Kodaira et al., arXiv 2312.12491 (cumulo-autumn/StreamDiffusion, src/streamdiffusion/pipeline.py,
at commit b623251). A new frame enters at the first level; one call of the network moves all
frames a level on; the one at the last level leaves, ``levels - 1`` frames after it came. Until
then the buffer holds nothing and what leaves is marked so. The frames do not see each other, so
this is sequential denoising, delayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..exportable import exportable
from ..gaps import hold, zero_invalid
from ..streaming import Array
from .guidance import Guidance, guided

# (x [B, n, ...], times [n], conditioned) -> the noise in x, as a network sees it
Network = Callable[[Array, Array, bool], Array]


@dataclasses.dataclass(frozen=True)
class Levels:
    """Few-step levels, from noisy to nearly clean; one number each.

    Attributes:
      times: what the network is told.
      signal, noise: a latent at a level is ``signal * clean + noise * its noise``.
      skip, out: consistency boundary: ``out * clean estimate + skip * latent``.
    """

    times: tuple[int, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    skip: tuple[float, ...]
    out: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(field) for field in dataclasses.astuple(self)}
        if len(sizes) != 1 or not self.times:
            raise ValueError(f"a number of each kind per level, of one level or more: {self}")


def lcm_levels(
    places: tuple[int, ...], steps: int = 50, low: float = 0.00085, high: float = 0.012
) -> Levels:
    """Levels of Stable Diffusion under a latent consistency model's scheduler: ``places`` count on
    its list of ``steps`` times (LCM, arXiv 2310.04378; diffusers' LCMScheduler, "scaled_linear").

    Raises:
      ValueError: places that do not rise, or are not on the list.
    """
    if list(places) != sorted(set(places)) or not all(0 <= p < steps for p in places):
        raise ValueError(f"places {places} should rise within 0 .. {steps - 1}")
    kept = np.cumprod(1 - np.linspace(low**0.5, high**0.5, 1000, dtype=np.float64) ** 2)
    times = (np.arange(1, steps + 1) * (1000 // steps) - 1)[::-1][np.asarray(places)]
    scaled = times.astype(np.float64) * 10.0  # the boundary's time scale
    skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
    columns = (np.sqrt(kept[times]), np.sqrt(1 - kept[times]), skip, out)
    return Levels(tuple(int(t) for t in times), *(tuple(map(float, c)) for c in columns))


@exportable
class StreamBatchState(NamedTuple):
    """Per stream; n levels.

    Attributes:
      buffer: [B, n - 1, ...] the latents under way, the one that came last in front.
      kept: [B, n, ...] residual guidance's noise.
      noise: [B, n, ...] that is added at each level, the same for every frame.
      seen: [B] int32, frames that came, up to n - 1.
    """

    buffer: Array
    kept: Array
    noise: Array
    seen: Array


@exportable
class Denoised(NamedTuple):
    """What left the buffer with each frame.

    Attributes:
      x: [B, T, ...] the clean latent of the frame ``latency`` before, zeros where there is none.
      valid: [B, T] bool.
    """

    x: Array
    valid: Array


@dataclasses.dataclass(frozen=True)
class StreamBatch:
    """The buffer as a value: :meth:`init_carry`, :meth:`step`, :meth:`flush`."""

    levels: Levels
    guidance: Guidance = Guidance()

    @property
    def latency(self) -> int:
        """Frames that a result is behind."""
        return len(self.levels.times) - 1

    def init_carry(self, noise: Array) -> StreamBatchState:
        """An empty buffer. noise [B, n, ...]: what is added at each level, drawn once."""
        if noise.shape[1] != len(self.levels.times):
            raise ValueError(f"noise for {noise.shape[1]} levels, not {len(self.levels.times)}")
        nothing = jnp.zeros_like(noise)
        return StreamBatchState(
            nothing[:, 1:], nothing, noise, jnp.zeros((noise.shape[0],), jnp.int32)
        )

    def step(
        self, network: Network, carry: StreamBatchState, x: Array, valid: Array | None = None
    ) -> tuple[StreamBatchState, Denoised]:
        """Clean latents x [B, T, ...] of a video in, the redrawn ones out."""
        here = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def one(old, at):
            frame, here = at
            new, y = self._one(network, old, frame)
            full = old.seen >= self.latency
            new = hold(new, old, here)
            return new, Denoised(
                zero_invalid(y[:, None], (full & here)[:, None])[:, 0], full & here
            )

        frames = zero_invalid(x, valid).swapaxes(0, 1)
        carry, out = jax.lax.scan(one, carry, (frames, here.swapaxes(0, 1)))
        return carry, jax.tree.map(lambda a: a.swapaxes(0, 1), out)

    def flush(self, network: Network, carry: StreamBatchState) -> tuple[StreamBatchState, Denoised]:
        """The frames that are under way: ``latency`` outputs."""
        batch = carry.noise.shape[0]
        return self.step(network, carry, jnp.zeros((batch, self.latency, *carry.noise.shape[2:])))

    def _one(self, network: Network, old: StreamBatchState, frame: Array):
        levels, rest = self.levels, (1,) * (frame.ndim - 1)
        column = lambda numbers: jnp.asarray(numbers, frame.dtype).reshape(1, -1, *rest)
        numbers = (levels.signal, levels.noise, levels.skip, levels.out)
        signal, noise, skip, out = map(column, numbers)
        entering = signal[:, 0] * frame + noise[:, 0] * old.noise[:, 0]
        x = jnp.concatenate([entering[:, None], old.buffer], axis=1)
        kept = old.kept
        if self.latency:  # the noise moves on with its frame
            kept = jnp.concatenate([old.noise[:, :1], kept[:, :-1]], axis=1)
        estimate = lambda noise_found, at: out * (at - noise * noise_found) / signal + skip * at
        found, kept = self._guided(network, x, kept)
        clean = estimate(found, x)
        if self.guidance.residual:
            # what the kept noise would be, were it to lead back to the input (equation 5)
            off = estimate(found, noise * kept)
            after = lambda a: jnp.concatenate([a[:, 1:], jnp.ones_like(a[:, :1])], axis=1)
            kept = jnp.roll(old.noise, -1, axis=1) + after(signal) * off / after(noise)
        buffer = signal[:, 1:] * clean[:, :-1] + noise[:, 1:] * old.noise[:, 1:]
        seen = jnp.minimum(old.seen + 1, self.latency)
        return StreamBatchState(buffer, kept, old.noise, seen), clean[:, -1]

    def _guided(self, network: Network, x: Array, kept: Array) -> tuple[Array, Array]:
        """(the noise found, guided, and the kept noise)."""
        law, times = self.guidance, jnp.asarray(self.levels.times, jnp.int32)
        found = network(x, times, True)
        if not law.on:
            return found, kept
        if law.kind == "full":
            return guided(found, network(x, times, False), law.scale), kept
        if law.kind == "initialize":
            first = network(x[:, :1], times[:1], False)
            kept = jnp.concatenate([first, kept[:, 1:]], axis=1)
        return guided(found, kept * law.delta, law.scale), kept

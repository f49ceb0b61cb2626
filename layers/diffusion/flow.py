"""Flow matching: noise levels, the shifted table of them, and what a network's flow says.

A noisy latent is ``(1 - sigma) * clean + sigma * noise`` and a network answers the flow
``noise - clean`` (Lipman et al., arXiv 2210.02747). A time ``t`` is ``1000 * sigma``. A shift
bends the times towards noise (Esser et al., arXiv 2403.03206, section 5.3.2). The laws are those
of guandeh17/Self-Forcing, utils/scheduler.py and utils/wan_wrapper.py, at commit 33593df.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, TypeVar

import jax.numpy as jnp
import numpy as np

from ..streaming import Array

Numbers = TypeVar("Numbers", float, np.ndarray, Array)
TRAINED = 1000  # times go from 0, clean, to this, noise


def shifted(sigma: Numbers, shift: float) -> Numbers:
    """Sigmas in 0..1 bent towards noise by ``shift`` >= 1; 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@dataclasses.dataclass(frozen=True)
class FlowSchedule:
    """A table of noise levels, from noise to nearly clean.

    Attributes:
      steps: entries of the table.
      shift: see :func:`shifted`.
      ends: False leaves out the end of an even division, sigma 0, as Wan-derived code does
        (``extra_one_step``); True keeps it.
      smallest: the sigma at the end, before the shift.
      clean: what the time 0 is. "zero" is sigma 0: a clean latent. "table" takes the nearest
        entry, 0.00498 at shift 5, as the official training code does where it means clean.
    """

    steps: int = TRAINED
    shift: float = 5.0
    ends: bool = False
    smallest: float = 0.0
    clean: Literal["zero", "table"] = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.shift < 1:
            raise ValueError(
                f"a schedule has at least one step and a shift of at least 1, not {self.steps} and"
                f" {self.shift}"
            )

    @functools.cached_property
    def sigmas(self) -> np.ndarray:
        """float32 [steps], from noise down."""
        even = np.linspace(1.0, self.smallest, self.steps + (not self.ends))[: self.steps]
        return np.asarray(shifted(even, self.shift), np.float32)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """float32 [steps]: 1000 times the sigmas."""
        return self.sigmas * np.float32(TRAINED)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """float32 [steps]: weights of a training loss, a bell over the times whose mean is 1."""
        bell = np.exp(-2.0 * ((self.times.astype(np.float64) - self.steps / 2) / self.steps) ** 2)
        bell = bell - bell.min()
        return np.asarray(bell * (self.steps / bell.sum()), np.float32)

    def index(self, time: Array) -> Array:
        """int32 like ``time``: the nearest entry, the first of two that are as near."""
        time = jnp.asarray(time, jnp.float32)
        apart = jnp.abs(jnp.expand_dims(time, -1) - self.times.reshape((1,) * time.ndim + (-1,)))
        return jnp.argmin(apart, axis=-1).astype(jnp.int32)

    def sigma(self, time: Array) -> Array:
        """float32 like ``time``: the table's nearest sigma; of time 0 as ``clean`` says."""
        found = jnp.asarray(self.sigmas)[self.index(time)]
        if self.clean == "table":
            return found
        return jnp.where(jnp.asarray(time, jnp.float32) == 0, jnp.zeros((), jnp.float32), found)

    def weight(self, time: Array) -> Array:
        """float32 like ``time``: the loss's weight at the nearest entry."""
        return jnp.asarray(self.weights)[self.index(time)]

    def warp(self, times: Sequence[int]) -> tuple[float, ...]:
        """Few-step times as a paper gives them, 1000 750 500 250, on this table.

        Raises:
          ValueError: they do not fall, or are not in 0..1000.
        """
        table = np.append(self.times, np.float32(0))
        falling = all(a > b for a, b in zip(times, times[1:], strict=False))
        if not falling or not all(0 <= t <= self.steps for t in times):
            raise ValueError(f"times of a few-step schedule fall from 1000 to 0, not {list(times)}")
        return tuple(float(table[self.steps - t]) for t in times)

    def training_time(self, time: Array, low: float = 20.0, high: float = 980.0) -> Array:
        """A drawn time in 0..1000, shifted, then kept in low..high: where scores are compared
        (Self-Forcing, model/dmd.py)."""
        sigma = jnp.asarray(time, jnp.float32) / TRAINED
        bent = self.shift * sigma / (1 + (self.shift - 1) * sigma)
        return jnp.clip(bent * TRAINED, low, high)

    def add_noise(self, clean: Array, noise: Array, time: Array) -> Array:
        """Latents [M, ...] at times whose axes are the first of theirs."""
        return mix(clean, noise, self.sigma(time))

    def clean_of(self, flow: Array, noisy: Array, time: Array) -> Array:
        """The clean latent that a flow at ``time`` points to."""
        return noisy - along(self.sigma(time), noisy) * flow

    def flow_of(self, clean: Array, noisy: Array, time: Array) -> Array:
        """The flow that points to ``clean``; ``time`` is not 0."""
        return (noisy - clean) / along(self.sigma(time), noisy)

    def step(self, flow: Array, time: Array, noisy: Array, last: bool = False) -> Array:
        """One Euler step along the flow: to the table's next entry, with ``last`` to sigma 0."""
        at = self.index(time)
        after = jnp.append(jnp.asarray(self.sigmas)[1:], jnp.zeros((), jnp.float32))[at]
        after = jnp.zeros_like(after) if last else after
        return noisy + flow * along(after - jnp.asarray(self.sigmas)[at], noisy)


def along(per_frame: Array, like: Array) -> Array:
    """Numbers per stream or frame as an array that multiplies ``like`` [those axes, ...]."""
    return per_frame.reshape(per_frame.shape + (1,) * (like.ndim - per_frame.ndim)).astype(
        like.dtype
    )


def mix(clean: Array, noise: Array, sigma: Array) -> Array:
    """``(1 - sigma) clean + sigma noise``; sigma's axes are the first of theirs."""
    sigma = along(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def flow_target(clean: Array, noise: Array) -> Array:
    """What a network learns to answer."""
    return noise - clean


def flow_loss(flow: Array, clean: Array, noise: Array) -> Array:
    """The mean square of what a flow misses, fp32 []."""
    return jnp.mean(jnp.square((flow - flow_target(clean, noise)).astype(jnp.float32)))

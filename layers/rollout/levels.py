"""Level schedules: at which noise levels a block of frames is denoised, pass by pass."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..diffusion.flow import TRAINED, FlowSchedule
from ..streaming import Array


class Passes(NamedTuple):
    """The passes of each phase; phase p is the p-th block of a stream, the last one for ever.

    Attributes:
      times, sigmas: [phases, P] float32, what the network is told and the noise share of its input.
      counts: [phases] int32, passes of each phase; the rest of its row is filled up.
    """

    times: np.ndarray
    sigmas: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Levels:
    """Denoising levels of the blocks of a stream.

    Attributes:
      times: one list for each of the first blocks, the last one also for those that follow. Each
        list falls; its first level is what noise is, or what a source is brought to.
      shift: of the table that gives a level its noise share.

    Raises:
      ValueError: no levels, levels outside 0 to 1000, or a list that does not fall.
    """

    times: tuple[tuple[float, ...], ...]
    shift: float = 5.0

    def __post_init__(self) -> None:
        if not self.times or not all(self.times):
            raise ValueError("a level schedule needs at least one level per block")
        for row in self.times:
            falls = all(a > b for a, b in zip(row, row[1:], strict=False))
            if not falls or not row[-1] > 0 or row[0] > TRAINED:
                raise ValueError(f"levels {row}: from at most 1000 down, above 0")

    @classmethod
    def few(cls, *steps: int, shift: float = 5.0) -> Levels:
        """The same few steps for every block, warped by ``shift`` (Self-Forcing)."""
        return cls((FlowSchedule(shift=shift).warp(steps),), shift)

    @property
    def schedule(self) -> FlowSchedule:
        """The table of noise levels."""
        return FlowSchedule(shift=self.shift)

    @property
    def steady(self) -> tuple[float, ...]:
        """The levels of a block once a stream runs."""
        return self.times[-1]

    def sigma(self, times: Array) -> Array:
        """The noise shares of levels, each that of the nearest entry of the table."""
        return self.schedule.sigma(times)

    @property
    def calls(self) -> tuple[int, ...]:
        """Denoising passes of the first blocks, the last one for all that follow."""
        return tuple(len(row) for row in self.times)

    @functools.cached_property
    def passes(self) -> Passes:
        """As arrays."""
        longest = max(self.calls)
        full = lambda row: (*row, *(row[-1:] * (longest - len(row))))
        times = np.asarray([full(row) for row in self.times], np.float32)
        table = self.schedule
        nearest = np.abs(times[..., None] - table.times).argmin(axis=-1)
        sigmas = table.sigmas[nearest]
        return Passes(times, sigmas, np.asarray(self.calls, np.int32))

"""Denoising diffusion with a table of 1000 noise levels, in few steps and without new noise.

A noisy latent is ``sqrt(kept) * clean + sqrt(1 - kept) * noise``; ``kept`` falls over the times
0 to 999. A network answers the noise, the clean latent, or the velocity ``sqrt(kept) * noise -
sqrt(1 - kept) * clean``, which alone says something where nothing of the clean latent is kept.

Sources: Song et al., DDIM (arXiv 2010.02502), equation 12; Salimans and Ho (arXiv 2202.00512) for
velocities; Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv
2305.08891) for trailing times and a last time that keeps nothing. The order of operations is that
of huggingface/diffusers, schedulers/scheduling_ddim.py, which Marigold uses.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ..streaming import Array

ANSWERS = ("velocity", "noise", "clean")
SPACINGS = ("trailing", "leading")


@dataclasses.dataclass(frozen=True)
class DDIM:
    """A schedule; the defaults are those of Marigold's second release.

    Attributes:
      trained: times of the table.
      first, last: noise that is added at its ends; between them its roots are even.
      nothing_kept: the table is stretched so that its last time keeps nothing.
      answers: what the network says.
      spacing: ``trailing`` times begin at the last, ``leading`` ones end at ``offset``.
      offset: see there.
      whole: after the last step all is kept; False: as much as at time 0.

    Raises:
      ValueError: an unknown word, or noise in place of velocities where nothing is kept.
    """

    trained: int = 1000
    first: float = 0.00085
    last: float = 0.012
    nothing_kept: bool = True
    answers: str = "velocity"
    spacing: str = "trailing"
    offset: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        for word, known in ((self.answers, ANSWERS), (self.spacing, SPACINGS)):
            if word not in known:
                raise ValueError(f"{word!r}: choose from {', '.join(known)}")
        if self.nothing_kept and self.answers == "noise":
            raise ValueError("noise says nothing of a latent of which nothing is kept: velocity")

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """float32 [trained]: how much of the clean latent's square is left."""
        added = np.linspace(self.first**0.5, self.last**0.5, self.trained, dtype=np.float32) ** 2
        kept = np.cumprod(1 - added, dtype=np.float32)
        if self.nothing_kept:
            root = np.sqrt(kept)
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
            kept = root**2
        return kept

    def times(self, steps: int) -> np.ndarray:
        """int32 [steps], falling: where the network is asked.

        Raises:
          ValueError: more steps than times, or none.
        """
        if not 1 <= steps <= self.trained:
            raise ValueError(f"{steps} steps of {self.trained} times: at least 1, and no more")
        if self.spacing == "trailing":
            ends = np.arange(self.trained, 0, -self.trained / steps)
            return np.round(ends).astype(np.int32) - 1
        return (np.arange(steps) * (self.trained // steps))[::-1].astype(np.int32) + self.offset

    def add_noise(self, clean: Array, noise: Array, time: int) -> Array:
        """A clean latent at a time."""
        kept = float(self.kept[time])
        return kept**0.5 * clean + (1 - kept) ** 0.5 * noise

    def velocity(self, clean: Array, noise: Array, time: int) -> Array:
        """What a network of velocities learns to answer."""
        kept = float(self.kept[time])
        return kept**0.5 * noise - (1 - kept) ** 0.5 * clean

    def step(self, answer: Array, time: int, noisy: Array, steps: int) -> Array:
        """The latent at the time after ``time`` in a walk of ``steps``."""
        after = int(time) - self.trained // steps
        now = float(self.kept[time])
        then = float(self.kept[after]) if after >= 0 else 1.0 if self.whole else self._start
        a, b = now**0.5, (1 - now) ** 0.5
        if self.answers == "velocity":
            clean, noise = a * noisy - b * answer, a * answer + b * noisy
        elif self.answers == "noise":
            clean, noise = (noisy - b * answer) / a, answer
        else:
            clean, noise = answer, (noisy - a * answer) / b
        return then**0.5 * clean + (1 - then) ** 0.5 * noise

    @property
    def _start(self) -> float:
        return float(self.kept[0])

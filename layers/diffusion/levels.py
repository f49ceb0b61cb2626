"""Which frame has which noise level when: matrices of levels, and buffers cut into chunks.

A level counts denoising steps that are left: ``steps`` is noise, 0 is clean. A matrix
[rows, horizon] says the level of every frame before each pass; its last row is clean. The four
forms are those of Diffusion Forcing (Chen et al., arXiv 2407.01392; buoyancy99/diffusion-forcing,
algorithms/diffusion_forcing/df_base.py, at commit 475e0bc).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array


def pyramid(horizon: int, steps: int, uncertainty: float = 1.0) -> np.ndarray:
    """Every frame starts ``uncertainty`` passes after the one before it: int32 [rows, horizon]."""
    ahead = (np.arange(horizon) * uncertainty).astype(np.int32)
    rows = np.arange(steps + int((horizon - 1) * uncertainty) + 1, dtype=np.int32)
    return np.clip(steps + ahead[None] - rows[:, None], 0, steps)


def autoregressive(horizon: int, steps: int) -> np.ndarray:
    """A frame starts when the one before it is clean."""
    return pyramid(horizon, steps, steps)


def full_sequence(horizon: int, steps: int) -> np.ndarray:
    """All frames together: ordinary diffusion."""
    return pyramid(horizon, steps, 0.0)


def trapezoid(
    horizon: int, steps: int, uncertainty: float = 1.0, official: bool = False
) -> np.ndarray:
    """Both ends first, the middle last: for a span between known frames.

    Args:
      official: the published loop, which writes column -t beside column t. Its right end is one
        frame late, and of an even horizon the frame after the middle stays at level 0, as if it
        were clean. By default both sides mirror each other.
    """
    half = (horizon + 1) // 2
    rows = np.arange(steps + int(half * uncertainty), dtype=np.int32)
    side = (np.arange(half) * uncertainty).astype(np.int32)
    ahead = np.full(horizon, -steps, np.int32)  # at most level 0, whatever the row
    ahead[:half] = side
    ahead[-np.arange(half) if official else np.arange(horizon)[::-1][:half]] = side
    return np.clip(steps + ahead[None] - rows[:, None], 0, steps)


@dataclasses.dataclass(frozen=True)
class Partition:
    """A buffer of clean frames and of chunks at rising levels, StreamDiT's (arXiv 2507.03745, 3.2).

    One chunk with all frames is ordinary diffusion; chunks of one frame and one step are the
    frame-diagonal of FIFO-Diffusion and StreamDiffusion; five blocks of three frames with one step
    are Rolling Forcing, four groups of four RAIN.

    Attributes:
      reference: clean frames in front (K).
      chunks: N; the first is the cleanest.
      size: frames of a chunk (c).
      steps: passes of a chunk from one place to the next (s).
    """

    reference: int = 0
    chunks: int = 1
    size: int = 1
    steps: int = 1

    def __post_init__(self) -> None:
        if min(self.chunks, self.size, self.steps) < 1 or self.reference < 0:
            raise ValueError(f"{self} needs chunks, frames in them and steps of at least 1")

    @classmethod
    def of(cls, frames: int, steps: int, chunks: int, reference: int = 0) -> Partition:
        """Of a buffer of ``frames`` noisy frames that get ``steps`` passes each.

        Raises:
          ValueError: ``chunks`` divides one of them not.
        """
        if frames % chunks or steps % chunks:
            raise ValueError(
                f"{chunks} chunks divide neither or only one of {frames} frames and {steps} steps;"
                f" {_divisors(frames, steps)} would do"
            )
        return cls(reference, chunks, frames // chunks, steps // chunks)

    @property
    def frames(self) -> int:
        """Places of the buffer."""
        return self.reference + self.chunks * self.size

    @property
    def levels(self) -> int:
        """Passes that a frame gets in all."""
        return self.chunks * self.steps

    @property
    def latency(self) -> int:
        """Frames that are entered after one until it is clean: those of the chunks behind its own,
        and the rest of its own."""
        return self.chunks * self.size - 1

    def matrix(self) -> np.ndarray:
        """int32 [steps + 1, frames]: levels before each pass between two shifts, and after them."""
        place = np.repeat(np.arange(1, self.chunks + 1, dtype=np.int32), self.size) * self.steps
        rows = place[None] - np.arange(self.steps + 1, dtype=np.int32)[:, None]
        return np.concatenate([np.zeros((len(rows), self.reference), np.int32), rows], axis=1)

    def calls(self, frames: int) -> int:
        """Passes of the network until ``frames`` are clean, from an empty buffer."""
        return self.steps * (-(-frames // self.size) + self.chunks - 1)


def _divisors(*numbers: int) -> str:
    common = int(np.gcd.reduce(numbers))
    return ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)


@dataclasses.dataclass(frozen=True)
class StepsPerChunk:
    """Few-step times of each chunk of a stream; the last entry serves all later chunks.

    Diagonal Distillation gives early chunks more steps than later ones (Sphere-AI-Lab/diagdistill,
    at commit 4ea418d): 4, 3, then 2.
    """

    times: tuple[tuple[float, ...], ...]

    def of(self, chunk: int) -> tuple[float, ...]:
        """The times of a chunk, from 0."""
        return self.times[min(chunk, len(self.times) - 1)]

    def calls(self, chunks: int, clean_pass: bool = False) -> int:
        """Passes of the network for the first ``chunks``, with one more each where the clean
        chunk is read again for the memory."""
        return sum(len(self.of(i)) + clean_pass for i in range(chunks))


DIAGONAL_DISTILLATION = StepsPerChunk(
    ((1000.0, 933.0, 733.0, 357.0), (1000.0, 933.0, 357.0), (1000.0, 357.14))
)


def per_frame_times(key: Array, shape: Sequence[int], block: int = 1) -> Array:
    """Training times in 0..1000, float32 of ``shape`` [..., T], independent for every block of
    frames (Diffusion Forcing); each by itself is as likely as a clip's single time.

    Raises:
      ValueError: ``block`` does not divide the frames.
    """
    *rest, frames = shape
    if frames % block:
        raise ValueError(f"blocks of {block} do not divide {frames} frames")
    drawn = jax.random.uniform(key, (*rest, frames // block), jnp.float32)
    return jnp.repeat(drawn * 1000, block, axis=-1)

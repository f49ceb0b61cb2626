"""Distribution matching: the difference of two scores says where a student's frames should go.

Source: Yin et al., "Improved Distribution Matching Distillation" (arXiv 2405.14867), and
guandeh17/Self-Forcing, model/dmd.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...layers.diffusion import FlowSchedule, flow_loss, mix
from ...layers.diffusion.flow import along
from ...layers.streaming import Array

Score = Callable[[Array, Array], Array]  # (noisy [B, F, h, w, C], times [B, F]) -> flow


class Scores(NamedTuple):
    """The networks that judge, each (noisy, times [B, F]) -> flow.

    Attributes:
      real: the teacher, told the condition.
      fake: the critic, which knows what the student makes.
      empty: the teacher, told nothing; None without guidance.
    """

    real: Score
    fake: Score
    empty: Score | None = None


@dataclass(frozen=True)
class DMD:
    """How frames are judged.

    Attributes:
      guidance: the teacher's answer is cond + guidance * (cond - uncond), a scale of guidance + 1
        in the usual form; 0 for none.
      shift: of the table that adds noise.
      score_shift: of the table that turns a flow into frames; the authors' is another one, which is
        the same up to rounding. None: ``shift``.
    """

    guidance: float = 3.0
    shift: float = 5.0
    score_shift: float | None = None

    def clean(self, noisy: Array, flow: Array, times: Array) -> Array:
        """The frames that a flow points to."""
        shift = self.shift if self.score_shift is None else self.score_shift
        return FlowSchedule(shift=shift).clean_of(flow, noisy, times)


def dmd_gradient(
    frames: Array, noise: Array, times: Array, scores: Scores, config: DMD | None = None
) -> tuple[Array, dict[str, Array]]:
    """Where the student's frames should go, in the other direction.

    Args:
      frames: [B, F, h, w, C], what the student made.
      noise: as ``frames``.
      times: [B, F], at which both judge.
      scores: teacher and critic.
      config: how.

    Returns:
      (gradient, as ``frames``; ``size``, its mean absolute value, and ``distance``, the mean
      absolute difference of both judgements before it is normalised).
    """
    config = config or DMD()
    noisy = mix(frames, noise, FlowSchedule(shift=config.shift).sigma(times))
    fake = config.clean(noisy, scores.fake(noisy, times), times)
    real = config.clean(noisy, scores.real(noisy, times), times)
    if scores.empty is not None and config.guidance:
        empty = config.clean(noisy, scores.empty(noisy, times), times)
        real = real + config.guidance * (real - empty)
    apart = jnp.abs(frames - real).mean(axis=tuple(range(1, frames.ndim)))
    slope = (fake - real) / along(apart, frames)
    slope = jnp.nan_to_num(jax.lax.stop_gradient(slope))
    return slope, {"size": jnp.abs(slope).mean(), "distance": jnp.abs(fake - real).mean()}


def dmd_loss(
    frames: Array,
    noise: Array,
    times: Array,
    scores: Scores,
    config: DMD | None = None,
    weights: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """A loss whose gradient by ``frames`` is :func:`dmd_gradient` over their number of values.

    Args:
      frames, noise, times, scores, config: as of :func:`dmd_gradient`.
      weights: [F] or [B, F], of the frames (``tail_weights``); None: 1.

    Returns:
      (loss [], the figures of :func:`dmd_gradient`).
    """
    slope, figures = dmd_gradient(frames, noise, times, scores, config)
    target = jax.lax.stop_gradient(frames - slope)
    square = jnp.square(frames - target)
    if weights is not None:
        weights = weights if weights.ndim == 2 else weights[None]
        square = square * along(weights, square)
    return 0.5 * square.mean(), figures


def critic_loss(
    frames: Array, noise: Array, times: Array, fake: Score, shift: float = 5.0
) -> Array:
    """The critic learns the flow of what the student made, which gets no gradient."""
    frames = jax.lax.stop_gradient(frames)
    noisy = mix(frames, noise, FlowSchedule(shift=shift).sigma(times))
    return flow_loss(fake(noisy, times), frames, noise)

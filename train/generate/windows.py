"""Training of a rolling window: the student's own history, and windows that do not overlap.

Source: Liu et al., "Rolling Forcing" (arXiv 2509.25161), section 3.3, and
TencentARC/RollingForcing, pipeline/rolling_forcing_training.py. A window holds a block of every
noise level, and one pass answers for all of them; the next window that is judged begins where this
one ends, so every frame is judged once.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params
from ...zoo.generate import window
from ...zoo.generate.engine import Engine
from ...zoo.generate.state import GeneratorState
from .rollout import side_by_side


@dataclass(frozen=True)
class WindowRollout:
    """Rolls a student out window by window, and gives the frames of every P-th one, P blocks each.

    Raises:
      ValueError: a rollout of another order.
    """

    engine: Engine

    def __post_init__(self) -> None:
        if self.engine.rollout.order != "window":
            raise ValueError("windows are of a rollout of the order 'window'")

    @property
    def blocks(self) -> int:
        """P: blocks of a window."""
        return self.engine.rollout.under_way + 1

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.blocks * self.engine.rollout.block

    def plan(self, key: Array, windows: int, batch: int) -> Array:
        """Noise of so many windows that are judged: [n, P, B, P, F, h, w, C]."""
        one = (batch, self.blocks, self.engine.rollout.block, *self.engine.shapes.frame_shape)
        return jax.random.normal(key, (windows, self.blocks, *one), jnp.float32)

    def window(
        self, variables: Params, state: GeneratorState, condition: Array, draws: Array
    ) -> tuple[GeneratorState, Array]:
        """P steps, the last of which is judged: (state, its frames [B, P * F, h, w, C]).

        Gradient flows through the last pass of that step alone: what the window holds, what it
        reads and what is committed are constants.

        Args:
          draws: [P, B, P, F, h, w, C], a row of :meth:`plan`.
        """
        engine, fixed = self.engine, jax.lax.stop_gradient(variables)

        def forward(i: Array, state: GeneratorState) -> GeneratorState:
            return window.step(engine, fixed, state, condition, draws[i])[0]

        state = jax.lax.stop_gradient(state)
        state = jax.lax.fori_loop(np.int32(0), np.int32(self.blocks - 1), forward, state)
        state = jax.lax.stop_gradient(state)
        found = window.denoised(engine, variables, state, condition, draws[-1])
        constant = jax.lax.stop_gradient(found)
        after, _ = window.finished(engine, fixed, state, condition, constant)
        return after, found.clean

    def roll(
        self, variables: Params, state: GeneratorState, condition: Array, plan: Array
    ) -> tuple[GeneratorState, Array]:
        """All windows, from a stream that begins: (state, frames [B, n * P * F, h, w, C])."""

        def body(state: GeneratorState, draws: Array) -> tuple[GeneratorState, Array]:
            return self.window(variables, state, condition, draws)

        state, made = jax.lax.scan(body, state, plan)
        return state, side_by_side(made)

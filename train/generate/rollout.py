"""A student's own rollout as training data, through the carry that it streams with.

Source: Huang et al., "Self Forcing" (arXiv 2506.08009), section 3.2. Unlike the authors' code, in
which a cache that was written in place leaks gradient from block to block, what is committed to the
memory is a constant here: the gradient of a block is that of its own last pass, so memory for the
backward pass is that of one block, however long the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.diffusion import mix
from ...layers.diffusion.flow import along
from ...layers.streaming import Array, Params
from ...zoo.generate.engine import Engine, Seen, controlled
from ...zoo.generate.state import GeneratorState


class Plan(NamedTuple):
    """What a rollout of n blocks draws.

    Attributes:
      draws: [n, B, P, F, h, w, C], noise of the passes.
      context: [n, B, F, h, w, C], noise of what is committed.
      exits: [n] int32, the pass of each block that is its answer, 0 to P - 1.
      oracle: [n, B] bool, blocks whose real frames are committed in the place of their own.
      truth: [n, B, F, h, w, C], the real frames; zeros where there are none.
      control: [n, B, F, h, w, D], channels beside the latents, such as motion tracks.
    """

    draws: Array
    context: Array
    exits: Array
    oracle: Array
    truth: Array
    control: Array | None = None


@dataclass(frozen=True)
class SelfRollout:
    """Rolls a student out, block by block, and gives the gradient of what it made.

    Attributes:
      engine: the student and its rollout, order ``block`` with one list of levels.
      context_sigma: noise share of the frames that are committed. 0 is what inference does. The
        authors' training code has 0.00498 at shift 5, where it means 0.

    Raises:
      ValueError: another order, or lists of levels that differ.
    """

    engine: Engine
    context_sigma: float = 0.0

    def __post_init__(self) -> None:
        r = self.engine.rollout
        if r.order != "block" or len(r.levels.times) != 1:
            raise ValueError("a rollout that is trained makes block by block, at the same levels")

    def plan(self, key: Array, blocks: int, batch: int, *, last_exit: bool = False) -> Plan:
        """Draws for so many blocks. The exit is one for all of them and for all streams, uniform
        over the passes (Self-Forcing); with ``last_exit`` it is the last pass."""
        r = self.engine.rollout
        passes = len(r.levels.steady)
        one = (batch, r.block, *self.engine.shapes.frame_shape)
        first, second, third = jax.random.split(key, 3)
        shape = (blocks, batch, passes, *one[1:])
        draws = jax.random.normal(first, shape, jnp.float32)
        context = jax.random.normal(second, (blocks, *one), jnp.float32)
        drawn = jax.random.randint(third, (), 0, passes, jnp.int32)
        exits = (
            jnp.full((blocks,), passes - 1, jnp.int32) if last_exit else jnp.repeat(drawn, blocks)
        )
        nothing = jnp.zeros((blocks, *one), jnp.float32)
        return Plan(draws, context, exits, jnp.zeros((blocks, batch), bool), nothing)

    def block(
        self, variables: Params, state: GeneratorState, condition: Array, plan: Plan
    ) -> tuple[GeneratorState, Array]:
        """One block: (state, the frames that its exit pass answers [B, F, h, w, C]).

        Gradient flows through the exit pass alone: not through the passes before it, not through
        what it reads, not through what is committed. ``plan`` is a row of a :class:`Plan`.
        """
        engine, r = self.engine, self.engine.rollout
        fixed = jax.lax.stop_gradient(variables)
        state = jax.lax.stop_gradient(state)
        times = jnp.asarray(r.levels.passes.times[0])
        sigmas = jnp.asarray(r.levels.passes.sigmas[0])
        own = state.memory.seen[:, None] + jnp.arange(r.block, dtype=jnp.int32)[None]
        table = engine.table(state, own)

        def answer(variables: Params, x: Array, p: Array) -> tuple[Array, Seen]:
            time = jnp.broadcast_to(times[p], own.shape)
            seen = engine.peek(
                variables, state.memory, table, controlled(x, plan.control), time, condition
            )
            return x - sigmas[p] * seen.flow, seen

        def before(p: Array, x: Array) -> Array:
            clean, _ = answer(fixed, x, p)
            fresh = jax.lax.dynamic_index_in_dim(plan.draws, p + 1, 1, keepdims=False)
            return mix(clean, fresh, jnp.broadcast_to(sigmas[p + 1], clean.shape[:1]))

        x = sigmas[0] * plan.draws[:, 0]
        x = jax.lax.stop_gradient(jax.lax.fori_loop(np.int32(0), plan.exits, before, x))
        made, seen = answer(variables, x, plan.exits)
        kept = jnp.where(along(plan.oracle, made), plan.truth, jax.lax.stop_gradient(made))
        if r.clean:
            share = jnp.full(kept.shape[:1], self.context_sigma, jnp.float32)
            context = mix(kept, plan.context, share)
            clean = engine.table(state, own, clean=True)
            zero = jnp.zeros(own.shape, jnp.float32)
            context = controlled(context, plan.control)
            seen = engine.peek(fixed, state.memory, clean, context, zero, condition)
        after = engine.commit(state, jax.lax.stop_gradient(seen), own, kept)
        return after, made

    def roll(
        self, variables: Params, state: GeneratorState, condition: Array, plan: Plan
    ) -> tuple[GeneratorState, Array]:
        """All blocks: (state, frames [B, n * F, h, w, C]). A gradient may be taken, and keeps what
        every block needs; :meth:`gradient` keeps that of one."""

        def body(state: GeneratorState, row: Plan) -> tuple[GeneratorState, Array]:
            return self.block(variables, state, condition, row)

        state, made = jax.lax.scan(body, state, plan)
        return state, side_by_side(made)

    def gradient(
        self,
        variables: Params,
        state: GeneratorState,
        condition: Array,
        plan: Plan,
        slopes: Array,
    ) -> tuple[GeneratorState, Params]:
        """The gradient of a loss of a rollout, block by block.

        Args:
          variables, state, condition, plan: as of :meth:`roll`.
          slopes: [B, n * F, h, w, C], the loss's gradient by the frames that :meth:`roll` gave.

        Returns:
          (the state after the rollout, the gradient by ``variables``).
        """
        frames = self.engine.rollout.block
        batch, count = slopes.shape[0], slopes.shape[1] // frames
        rows = slopes.reshape(batch, count, frames, *slopes.shape[2:]).swapaxes(0, 1)

        def body(carry: tuple[GeneratorState, Params], row: tuple[Plan, Array]):
            state, total = carry
            plan, slope = row

            def made(variables: Params):
                after, made = self.block(variables, state, condition, plan)
                return made, after

            _, back, after = jax.vjp(made, variables, has_aux=True)
            (found,) = back(slope)
            return (after, jax.tree.map(jnp.add, total, found)), None

        zero = jax.tree.map(jnp.zeros_like, variables)
        (state, total), _ = jax.lax.scan(body, (state, zero), (plan, rows))
        return state, total


def tail_weights(frames: int, tail: int) -> np.ndarray:
    """[frames] float32: 1 for the last ``tail`` frames, 0 for those before them: a loss on the end
    of a long rollout alone (EchoTorrent's long-tail forcing).

    Raises:
      ValueError: a tail that is longer than the rollout, or none.
    """
    if not 0 < tail <= frames:
        raise ValueError(f"a tail of {tail} of {frames} frames")
    return (np.arange(frames) >= frames - tail).astype(np.float32)


def side_by_side(made: Array) -> Array:
    """[n, B, F, ...] -> [B, n * F, ...]."""
    made = made.swapaxes(0, 1)
    return made.reshape(made.shape[0], -1, *made.shape[3:])

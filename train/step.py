"""One step of training: gradient, change of the weights, figures; jitted, state donated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..layers.streaming import Carry, Params
from . import micro, sharding
from .optim import averaged, make_optimiser, schedule
from .types import Batch

Array = jax.Array
Step = Callable[["State", Params, Batch], tuple["State", Array]]


class State(NamedTuple):
    """All of a run but its place in the data."""

    step: Array  # int32, steps done
    params: Params
    average: Params  # exponential moving average of params: what is kept in the end
    optimiser: optax.OptState
    memory: Carry  # every leaf [lanes, ...]
    bad: Array  # int32: the first step whose loss or gradient was not finite, or -1


def start(task: Any, config: Any, mesh: Mesh) -> tuple[State, optax.GradientTransformation]:
    """(the state before the first step, placed on the mesh; the optimiser).

    config: a ``loop.LoopConfig``.
    """
    first = task.init(jax.random.key(config.seed))
    params = sharding.place(first, sharding.of_weights(first, mesh))
    scale = None
    if hasattr(task, "rate_scale"):
        scale = jax.device_get(task.rate_scale(first, config.optim.layer_decay))
    optimiser = make_optimiser(config.optim, config.steps, first, scale)
    shapes = jax.eval_shape(optimiser.init, first)
    opt = jax.jit(optimiser.init, out_shardings=sharding.of_weights(shapes, mesh))(params)
    memory = task.init_memory(config.batch)
    memory = sharding.place(memory, jax.tree.map(lambda _: sharding.of_lanes(mesh), memory))
    count, bad = sharding.place((jnp.int32(0), jnp.int32(-1)), (sharding.whole(mesh),) * 2)
    # copies: steps donate their state, and the task may keep the weights it gave
    return sharding.copied(State(count, params, params, opt, memory, bad)), optimiser


def make_step(
    task: Any, optimiser: optax.GradientTransformation, config: Any, mesh: Mesh, state: State
) -> tuple[Step, list[str]]:
    """((state, constants, batch) -> (state, figures [F]), and the names of the F figures).

    The names are there after the first call. The random key depends on ``config.seed`` and the
    step alone, so a restart repeats nothing. A step whose loss or gradient is not finite, and
    every step after it, changes nothing but the count of steps.

    state: for its shardings, which all later states keep.
    """
    names: list[str] = []
    rate = schedule(config.optim, config.steps)
    split_lanes = NamedSharding(mesh, P(None, sharding.LANES))  # [parts, lanes / parts, ...]
    gradient = micro.gradient(
        task.loss, config.accumulate, lambda a: jax.lax.with_sharding_constraint(a, split_lanes)
    )

    def step(state: State, constants: Params, batch: Batch) -> tuple[State, Array]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        (value, (memory, figures)), grad = gradient(
            state.params, constants, state.memory, key, batch
        )
        norm = optax.tree.norm(grad)
        change, opt = optimiser.update(grad, state.optimiser, state.params)
        params = optax.apply_updates(state.params, change)
        average = averaged(state.average, params, state.step, config.optim.ema)
        good = jnp.isfinite(value) & jnp.isfinite(norm) & (state.bad < 0)
        params, average, opt, memory = jax.tree.map(
            lambda n, o: jnp.where(good, n, o),
            (params, average, opt, jax.lax.stop_gradient(memory)),
            (state.params, state.average, state.optimiser, state.memory),
        )
        done = state.step + 1
        bad = jnp.where(good | (state.bad >= 0), state.bad, done)
        row = {"loss": value, **figures, "grad_norm": norm, "rate": rate(state.step), "bad": bad}
        names[:] = list(row)
        figures = jnp.stack([jnp.float32(value) for value in row.values()])
        return State(done, params, average, opt, memory, bad), figures

    where = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(where, sharding.whole(mesh))), names

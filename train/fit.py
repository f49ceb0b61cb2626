"""A small training loop: one jitted step with donated state, averaged weights, restartable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
# (params, memory, key, batch) -> (loss, (memory, figures)); memory is whatever one step hands to
# the next, such as the carries of the streams
Loss = Callable[[Any, Any, Array, Any], tuple[Array, tuple[Any, dict[str, Array]]]]


class State(NamedTuple):
    """All that a restart needs."""

    step: Array  # int32
    params: Any
    average: Any  # exponential moving average of params: what is kept in the end
    optimiser: Any
    memory: Any


def start(params: Any, optimiser: optax.GradientTransformation, memory: Any = ()) -> State:
    """The state before the first step. ``params`` is copied: steps donate their state."""
    copy = lambda tree: jax.tree.map(jnp.array, tree)  # noqa: E731
    return State(jnp.int32(0), copy(params), copy(params), optimiser.init(params), copy(memory))


def make_step(
    loss: Loss, optimiser: optax.GradientTransformation, *, ema: float = 0.998, seed: int = 0
) -> Callable[[State, Any], tuple[State, dict[str, Array]]]:
    """Jitted (state, batch) -> (state, figures); ``state`` is donated.

    The random key depends on ``seed`` and the step alone, so a restart repeats nothing. ``ema`` is
    reached slowly: early averages would otherwise be of random weights.
    """

    def step(state: State, batch: Any) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (memory, figures)), slope = grad(state.params, state.memory, key, batch)
        change, opt = optimiser.update(slope, state.optimiser, state.params)
        params: Any = optax.apply_updates(state.params, change)
        keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, params)
        memory = jax.lax.stop_gradient(memory)
        figures = {"loss": value, **figures}
        return State(state.step + 1, params, average, opt, memory), figures

    return jax.jit(step, donate_argnums=0)


def fit(
    step: Callable[[State, Any], tuple[State, dict[str, Array]]],
    state: State,
    batches: Iterable[Any],
    steps: int,
    *,
    folder: str | Path,
    every: int = 100,
    log: Callable[[str], None] = print,
) -> State:
    """Runs until ``steps`` steps are done; logs and saves to ``folder`` every ``every`` steps.

    batches: begins with the batch of step ``state.step`` (see :func:`restore`).
    Raises FloatingPointError when the loss is no longer finite.
    """
    done, clock, seen = int(state.step), time.perf_counter(), 0
    sums: dict[str, float] = {}
    stream = iter(batches)
    while done < steps:
        state, figures = step(state, next(stream))
        done, seen = done + 1, seen + 1
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        if not np.isfinite(sums["loss"]):
            raise FloatingPointError(f"the loss is {sums['loss']} at step {done}; lower the rate")
        if done % every == 0 or done == steps:
            rate = (time.perf_counter() - clock) / seen
            text = "  ".join(f"{name} {value / seen:.3f}" for name, value in sums.items())
            log(f"step {done}/{steps}  {rate:.2f} s/step  {text}")
            save(Path(folder) / "state.npz", state)
            clock, seen, sums = time.perf_counter(), 0, {}
    return state


def save(path: Path, state: State) -> None:
    """All leaves of a state in one file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, *[np.asarray(leaf) for leaf in jax.tree.leaves(state)])
    part.replace(path)


def restore(path: str | Path, like: State) -> State:
    """A saved state, or ``like`` where there is none.

    Raises ValueError if the file is of another model or optimiser.
    """
    path = Path(path)
    if not path.is_file():
        return like
    leaves, tree = jax.tree.flatten(like)
    with np.load(path) as stored:
        found = [stored[name] for name in stored.files]
    if [a.shape for a in found] != [a.shape for a in leaves]:
        raise ValueError(f"{path} is the state of another run; delete it or choose another folder")
    return jax.tree.unflatten(tree, [jnp.asarray(a) for a in found])

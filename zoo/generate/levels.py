"""A step of a pipeline of levels: each noise level has a memory of its own, blocks move through.

Source: Feng et al., "StreamDiffusionV2" (arXiv 2511.07399), and Huang et al., "Live Avatar" (arXiv
2512.04677), section 3.2: a device may own a level, its memory never leaves it.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from ...layers.gaps import hold
from ...layers.memory import Slots, store
from ...layers.streaming import Array, Params
from .blocks import noise, over
from .engine import Engine
from .state import GeneratorState, Made


def step(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    condition: Array,
    draws: Array | None = None,
    source: Array | None = None,
    active: Array | None = None,
    first_time: Array | None = None,
) -> tuple[GeneratorState, Made]:
    """A new block enters the first level, each other one comes a level down, one is finished.

    Args:
      state, condition, active: as of ``blocks.step``.
      draws: [B, P, F, h, w, C]: noise of the new block, then what brings the block of each level to
        the next one.
      source: as of ``blocks.step``.
      first_time: [B], the first level of this step, 0 to 1000, in place of the schedule's; a moving
        picture is given less noise.
    """
    r = engine.rollout
    levels = r.levels.passes
    count, size = levels.times.shape[1], r.block
    if draws is None:
        draws = noise(state, (count, size, *engine.shapes.frame_shape))
    batch = draws.shape[0]
    row = lambda a: jnp.broadcast_to(jnp.asarray(a[0])[None], (batch, count))
    times, sigmas = row(levels.times), row(levels.sigmas)
    if first_time is not None:
        times = times.at[:, 0].set(first_time)
        sigmas = sigmas.at[:, 0].set(r.levels.sigma(first_time))
    new = draws[:, 0] * over(sigmas[:, 0], draws[:, 0])
    if source is not None:
        new = new + source * over(1 - sigmas[:, 0], source)
    # under way: oldest first, which is the last level
    behind = state.noisy.reshape(batch, count - 1, *new.shape[1:])[:, ::-1]
    x = jnp.concatenate([new[:, None], behind], axis=1)  # [B, P, F, h, w, C], by level
    number = state.begun[:, None] - jnp.arange(count, dtype=jnp.int32)[None]
    here = jnp.arange(count, dtype=jnp.int32)[None] <= state.steps[:, None]
    frame = number[..., None] * size + jnp.arange(size, dtype=jnp.int32)[None, None]
    own = jnp.where(here[..., None], frame, -1).reshape(batch * count, size)
    flat = lambda a: a.reshape(batch * count, *a.shape[2:])
    memory = state.memory
    each = lambda a: jnp.repeat(a, count, axis=0)
    rows = Slots(
        flat(memory.keys),
        flat(memory.values),
        {"serial": flat(memory.notes["serial"])},
        each(memory.seen),
        each(memory.next),
    )
    marks = type(state.marks)(*map(each, state.marks))
    table = r.read.table(r.keep, rows.notes["serial"], own, marks)
    time = jnp.broadcast_to(flat(times)[:, None], own.shape)
    seen = engine.peek(variables, rows, table, flat(x), time, each(condition))
    clean = x - over(sigmas, x) * seen.flow.reshape(x.shape)
    slot = r.keep.slots(own, own.max(axis=1) + 1)
    rows = store(rows, seen.keys, seen.values, {"serial": own}, slot)
    lower = over(sigmas[:, 1:], clean[:, :-1])
    noisy = (1 - lower) * clean[:, :-1] + lower * draws[:, 1:]
    back = lambda a, like: a.reshape(like.shape)
    done = number[:, -1]
    finished = jnp.where(here[:, -1], (done + 1) * size, memory.seen)
    memory = Slots(
        back(rows.keys, memory.keys),
        back(rows.values, memory.values),
        {"serial": back(rows.notes["serial"], memory.notes["serial"])},
        finished,
        finished + 0,
    )
    after = replace(
        state,
        memory=memory,
        noisy=noisy[:, ::-1].reshape(state.noisy.shape),
        begun=state.begun + 1,
        steps=state.steps + 1,
        cut=jnp.zeros_like(state.cut),
    )
    made = Made(clean[:, -1], here[:, -1], done * size)
    if active is None:
        return after, made
    return hold(after, state, active), made._replace(valid=made.valid & active)


def warm(
    engine: Engine, variables: Params, state: GeneratorState, condition: Array, draws: Array
) -> tuple[GeneratorState, Array]:
    """As ``Generator.warm``."""
    r = engine.rollout
    levels, memory = r.levels.passes, state.memory
    count = levels.times.shape[1]
    own = jnp.broadcast_to(
        jnp.arange(draws.shape[2], dtype=jnp.int32)[None], (draws.shape[0], draws.shape[2])
    )
    first = lambda a: a[:, 0]
    alone = replace(
        memory,
        keys=first(memory.keys),
        values=first(memory.values),
        notes={"serial": first(memory.notes["serial"])},
    )
    table = r.read.table(r.keep, alone.notes["serial"], own, state.marks)
    sigmas = [*levels.sigmas[0], np.float32(0)]
    x = sigmas[0] * draws[:, 0]
    seen = None
    for level in range(count):
        time = jnp.full(own.shape, levels.times[0, level], jnp.float32)
        seen = engine.peek(variables, alone, table, x, time, condition)
        clean = x - sigmas[level] * seen.flow
        again = draws[:, min(level + 1, count - 1)]
        x = (1 - sigmas[level + 1]) * clean + sigmas[level + 1] * again
    assert seen is not None
    end = own[:, -1] + 1
    alone = store(alone, seen.keys, seen.values, {"serial": own}, r.keep.slots(own, end))
    many = lambda a: jnp.repeat(a[:, None], count, axis=1)
    memory = Slots(
        many(alone.keys), many(alone.values), {"serial": many(alone.notes["serial"])}, end, end + 0
    )
    return replace(state, memory=memory, begun=end // r.block), x

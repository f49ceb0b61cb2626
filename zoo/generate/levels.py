"""A step of a pipeline of levels: each noise level has a memory of its own, blocks move through.

Source: Feng et al., "StreamDiffusionV2" (arXiv 2511.07399), and Huang et al., "Live Avatar" (arXiv
2512.04677), section 3.2 (timestep-forcing pipeline parallelism): a device may own some levels,
whose memory never leaves it; what moves from device to device are the latents of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ...layers.gaps import hold
from ...layers.memory import Slots, store
from ...layers.rollout import Marks
from ...layers.streaming import Array, Params
from .blocks import noise, over
from .engine import Engine
from .refresh import likeness, refreshed
from .state import GeneratorState, Made


class Level(NamedTuple):
    """What P levels need for one step; every leaf [B, P, ...].

    Attributes:
      keys, values: [B, P, L, C, N * heads, Dh], their memories.
      serial: [B, P, C] int32.
      x: [B, P, F, h, w, C], the noisy block at each level.
      own: [B, P, F] int32, its frames; -1 where no block has come yet.
      time, sigma: of the level.
      below: noise share of the level that the block goes to.
      again: [B, P, F, h, w, C], noise that brings it there.
    """

    keys: Array
    values: Array
    serial: Array
    x: Array
    own: Array
    time: Array
    sigma: Array
    below: Array
    again: Array


def run_levels(
    engine: Engine, variables: Params, level: Level, marks: Marks, condition: Array
) -> tuple[Level, Array]:
    """One pass of each level: (the levels with their memories written and ``x`` at the level below,
    the clean frames [B, P, F, h, w, C])."""
    r = engine.rollout
    batch, count = level.own.shape[:2]
    flat = lambda a: a.reshape(batch * count, *a.shape[2:])
    each = lambda a: jnp.repeat(a, count, axis=0)
    own, seen_so_far = flat(level.own), jnp.zeros(batch * count, jnp.int32)
    memory = Slots(
        flat(level.keys), flat(level.values), {"serial": flat(level.serial)},
        seen_so_far, seen_so_far,
    )  # fmt: skip
    table = r.read.table(r.keep, memory.notes["serial"], own, Marks(*map(each, marks)))
    time = jnp.broadcast_to(flat(level.time)[:, None], own.shape)
    seen = engine.peek(variables, memory, table, flat(level.x), time, each(condition))
    clean = level.x - over(level.sigma, level.x) * seen.flow.reshape(level.x.shape)
    slot = r.keep.slots(own, own.max(axis=1) + 1)
    if r.keep.refresh is not None:
        config = engine.module.config
        alike = likeness(r.keep, config.rotary, config.grid, memory, table, seen.keys, seen.values)
        slot = refreshed(r.keep, alike, own, memory.notes["serial"], slot)
    memory = store(memory, seen.keys, seen.values, {"serial": own}, slot)
    below = over(level.below, clean)
    after = level._replace(
        keys=memory.keys.reshape(level.keys.shape),
        values=memory.values.reshape(level.values.shape),
        serial=memory.notes["serial"].reshape(level.serial.shape),
        x=(1 - below) * clean + below * level.again,
    )
    return after, clean


Runner = Callable[[Params, Level, Marks, Array], tuple[Level, Array]]


def sharded(engine: Engine, mesh: Mesh, axis: str = "level") -> Runner:
    """:func:`run_levels` with the levels over the devices of a mesh's axis. A block's latents go to
    the next device by one permute; memories stay. The levels come back moved by one.

    Raises:
      ValueError: levels that the devices do not divide.
    """
    devices, count = mesh.shape[axis], len(engine.rollout.levels.steady)
    if count % devices:
        raise ValueError(f"{count} levels over {devices} devices of the axis {axis!r}")

    def local(variables: Params, level: Level, marks: Marks, condition: Array):
        after, clean = run_levels(engine, variables, level, marks, condition)
        # to the next level: within the device, and from its last one to the next device
        first = jax.lax.ppermute(after.x[:, -1:], axis, [(i, i + 1) for i in range(devices - 1)])
        return after._replace(x=jnp.concatenate([first, after.x[:, :-1]], axis=1)), clean

    spec = P(None, axis)
    return jax.shard_map(
        local,
        mesh=Mesh(mesh.devices, mesh.axis_names),  # whose axes are automatic outside of this
        in_specs=(P(), spec, P(), P()),
        out_specs=(spec, spec),
        check_vma=False,
    )


def moved(engine: Engine) -> Runner:
    """:func:`run_levels` on one device; the levels come back moved by one, as :func:`sharded`'s."""

    def local(variables: Params, level: Level, marks: Marks, condition: Array):
        after, clean = run_levels(engine, variables, level, marks, condition)
        return after._replace(x=jnp.roll(after.x, 1, axis=1)), clean

    return local


def step(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    condition: Array,
    draws: Array | None = None,
    source: Array | None = None,
    active: Array | None = None,
    first_time: Array | None = None,
    runner: Runner | None = None,
) -> tuple[GeneratorState, Made]:
    """A new block enters the first level, each other one comes a level down, one is finished.

    Args:
      state, condition, active: as of ``blocks.step``.
      draws: [B, P, F, h, w, C]: noise of the new block, then what brings the block of each level to
        the next one.
      source: as of ``blocks.step``.
      first_time: [B], the first level of this step, 0 to 1000, in place of the schedule's; a moving
        picture is given less noise.
      runner: of :func:`sharded`; None: one device has all levels.
    """
    r, memory = engine.rollout, state.memory
    levels = r.levels.passes
    count, size = levels.times.shape[1], r.block
    if draws is None:
        draws = noise(state, (count, size, *engine.shapes.frame_shape))
    batch = draws.shape[0]
    row = lambda a: jnp.broadcast_to(jnp.asarray(a)[None], (batch, count))
    times, sigmas = row(levels.times[0]), row(levels.sigmas[0])
    if first_time is not None:
        times = times.at[:, 0].set(first_time)
        sigmas = sigmas.at[:, 0].set(r.levels.sigma(first_time))
    new = draws[:, 0] * over(sigmas[:, 0], draws[:, 0])
    if source is not None:
        new = new + source * over(1 - sigmas[:, 0], source)
    # under way: oldest first, which is the last level
    behind = state.noisy.reshape(batch, count - 1, *new.shape[1:])[:, ::-1]
    number = state.begun[:, None] - jnp.arange(count, dtype=jnp.int32)[None]
    here = jnp.arange(count, dtype=jnp.int32)[None] <= state.steps[:, None]
    frame = number[..., None] * size + jnp.arange(size, dtype=jnp.int32)[None, None]
    level = Level(
        memory.keys,
        memory.values,
        memory.notes["serial"],
        jnp.concatenate([new[:, None], behind], axis=1),
        jnp.where(here[..., None], frame, -1),
        times,
        sigmas,
        row(np.append(levels.sigmas[0, 1:], np.float32(0))),
        jnp.concatenate([draws[:, 1:], jnp.zeros_like(draws[:, :1])], axis=1),
    )
    level, clean = (runner or moved(engine))(variables, level, state.marks, condition)
    done = number[:, -1]
    finished = jnp.where(here[:, -1], (done + 1) * size, memory.seen)
    after = replace(
        state,
        memory=Slots(level.keys, level.values, {"serial": level.serial}, finished, finished + 0),
        noisy=level.x[:, 1:][:, ::-1].reshape(state.noisy.shape),
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
    seen: Any = None
    for level in range(count):
        time = jnp.full(own.shape, levels.times[0, level], jnp.float32)
        seen = engine.peek(variables, alone, table, x, time, condition)
        clean = x - sigmas[level] * seen.flow
        again = draws[:, min(level + 1, count - 1)]
        x = (1 - sigmas[level + 1]) * clean + sigmas[level + 1] * again
    end = own[:, -1] + 1
    alone = store(alone, seen.keys, seen.values, {"serial": own}, r.keep.slots(own, end))
    many = lambda a: jnp.repeat(a[:, None], count, axis=1)
    memory = Slots(
        many(alone.keys), many(alone.values), {"serial": many(alone.notes["serial"])}, end, end + 0
    )
    return replace(state, memory=memory, begun=end // r.block), x


def placed(state: GeneratorState, mesh: Mesh, axis: str = "level") -> GeneratorState:
    """The state with each level's memory on its device."""
    put = lambda a: jax.device_put(a, NamedSharding(mesh, P(None, axis)))
    memory = state.memory
    return replace(
        state,
        memory=replace(
            memory,
            keys=put(memory.keys),
            values=put(memory.values),
            notes={"serial": put(memory.notes["serial"])},
        ),
    )


def step_over(mesh: Mesh, axis: str = "level") -> Callable[..., Any]:
    """:func:`step` with the levels over the devices of a mesh."""

    def over_devices(engine: Engine, *args: Any, **given: Any):
        return step(engine, *args, **given, runner=sharded(engine, mesh, axis))

    return functools.wraps(step)(over_devices)

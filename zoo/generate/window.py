"""A step of a rolling window: blocks at all noise levels are denoised together, one is finished.

Source: Liu et al., "Rolling Forcing" (arXiv 2509.25161), section 3.2; the bookkeeping is that of
TencentARC/RollingForcing, pipeline/rolling_forcing_inference.py.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from ...layers.gaps import hold
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
    fresh: Array | None = None,
) -> tuple[GeneratorState, Made]:
    """All blocks of the window come one level down; the oldest is finished.

    Args:
      state, condition, active: as of ``blocks.step``.
      draws: [B, P, F, h, w, C]: noise of the new block (the last of P), and what brings each other
        block, by its place in the window, to its next level.
      source: as of ``blocks.step``, of the new block.
      fresh: [B] bool, streams that take a new block in; the others drain. None: all.
    """
    r = engine.rollout
    levels = r.levels.passes
    count, size = levels.times.shape[1], r.block
    places = jnp.arange(count, dtype=jnp.int32)[None]  # of the window, oldest first
    if draws is None:
        draws = noise(state, (count, size, *engine.shapes.frame_shape))
    batch = draws.shape[0]
    fresh = jnp.ones(batch, bool) if fresh is None else fresh
    number = state.steps[:, None] - (count - 1) + places  # [B, P], of the block in each place
    begun = state.begun + fresh.astype(jnp.int32)
    here = (number >= 0) & (number < begun[:, None])
    # from the last level in the first place to the first level in the last
    falling = lambda row: jnp.broadcast_to(jnp.asarray(row[0, ::-1])[None], (batch, count))
    times, sigmas = falling(levels.times), falling(levels.sigmas)
    new = draws[:, -1] * over(sigmas[:, -1], draws[:, -1])
    if source is not None:
        new = new + source * over(1 - sigmas[:, -1], source)
    x = jnp.concatenate([state.noisy, new], axis=1)
    in_frames = lambda a: jnp.repeat(a, size, axis=1)
    frame = in_frames(number) * size + jnp.tile(jnp.arange(size, dtype=jnp.int32), count)[None]
    own = jnp.where(in_frames(here), frame, -1)
    seen = engine.peek(
        variables, state.memory, engine.table(state, own), x, in_frames(times), condition
    )
    clean = x - over(in_frames(sigmas), x) * seen.flow
    # every block but the oldest goes to the level of the place before it
    blocks = clean.reshape(batch, count, size, *clean.shape[2:])
    lower = over(sigmas[:, :-1], blocks[:, 1:])
    noisy = (1 - lower) * blocks[:, 1:] + lower * draws[:, : count - 1]
    # the oldest block that is there; while the window fills this is no finished one
    oldest = jnp.argmax(here, axis=1).astype(jnp.int32)
    pick = lambda a: jnp.take_along_axis(a, oldest.reshape(-1, *(1,) * (a.ndim - 1)), axis=1)[:, 0]
    finished = pick(blocks)
    first = own.reshape(batch, count, size)
    ids = pick(first)
    table = engine.table(state, ids, clean=True)
    written = engine.peek(
        variables, state.memory, table, finished, jnp.zeros(ids.shape, jnp.float32), condition
    )
    done = here[:, 0]
    after = engine.commit(state, written, ids, finished)
    after = replace(
        after,
        noisy=noisy.reshape(state.noisy.shape),
        begun=begun,
        steps=state.steps + 1,
    )
    # a window that is empty stays as it is
    busy = here.any(axis=1)
    busy = busy if active is None else busy & active
    made = Made(finished, done & busy, ids[:, 0])
    return hold(after, state, busy), made

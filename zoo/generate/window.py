"""A step of a rolling window: blocks at all noise levels are denoised together, one is finished.

Sources: Liu et al., "Rolling Forcing" (arXiv 2509.25161), section 3.2, with the bookkeeping of
TencentARC/RollingForcing, pipeline/rolling_forcing_inference.py; Kodaira et al., "StreamDiT" (arXiv
2507.03745), section 3.2, for several passes per step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ...layers.gaps import hold
from ...layers.streaming import Array, Params
from .blocks import noise, over
from .engine import Engine
from .state import GeneratorState, Made


class Window(NamedTuple):
    """The blocks of a window after a step's passes, oldest first.

    Attributes:
      clean: [B, P * F, h, w, C], the frames that each place's last pass answers.
      noisy: [B, P * F, h, w, C], at the level that each goes to.
      own: [B, P * F] int32, numbers of the frames, -1 where no block is.
      begun: [B] int32, blocks that were begun.
    """

    clean: Array
    noisy: Array
    own: Array
    begun: Array


def denoised(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    condition: Array,
    draws: Array | None = None,
    source: Array | None = None,
    fresh: Array | None = None,
) -> Window:
    """The passes of a step; the state stays as it is.

    Args:
      state, condition: as of ``blocks.step``.
      draws: [B, P, F, h, w, C]: noise of the new block (the last of P), and what brings each other
        block, by the place that it goes to, to its next level.
      source: as of ``blocks.step``, of the new block.
      fresh: [B] bool, streams that take a new block in; the others drain. None: all.
    """
    r = engine.rollout
    micro, size = r.micro, r.block
    # [P, micro], by place in the window, oldest first: the new block begins at the first level
    rows = lambda a: a[0].reshape(-1, micro)[::-1]
    times, sigmas = rows(r.levels.passes.times), rows(r.levels.passes.sigmas)
    count = times.shape[0]
    places = jnp.arange(count, dtype=jnp.int32)[None]
    if draws is None:
        draws = noise(state, (count, size, *engine.shapes.frame_shape))
    batch = draws.shape[0]
    fresh = jnp.ones(batch, bool) if fresh is None else fresh
    number = state.steps[:, None] - (count - 1) + places  # [B, P], of the block in each place
    begun = state.begun + fresh.astype(jnp.int32)
    here = (number >= 0) & (number < begun[:, None])
    new = sigmas[-1, 0] * draws[:, -1]
    if source is not None:
        new = new + (1 - sigmas[-1, 0]) * source
    x = jnp.concatenate([state.noisy, new], axis=1)
    frames = lambda a: jnp.repeat(a, size, axis=-1)
    frame = frames(number) * size + jnp.tile(jnp.arange(size, dtype=jnp.int32), count)[None]
    own = jnp.where(frames(here), frame, -1)
    table = engine.table(state, own)
    each = lambda a: over(jnp.broadcast_to(jnp.asarray(frames(a))[None], own.shape), x)
    clean = x
    for pass_ in range(micro):
        time = jnp.broadcast_to(jnp.asarray(frames(times[:, pass_]))[None], own.shape)
        flow = engine.peek(variables, state.memory, table, x, time, condition).flow
        clean = x - each(sigmas[:, pass_]) * flow
        # the level behind the last of a place is the first of the place before it
        last = pass_ + 1 == micro
        low = np.append(np.float32(0), sigmas[:-1, 0]) if last else sigmas[:, pass_ + 1]
        if r.straight or not last:
            x = x + each(low - sigmas[:, pass_]) * flow
        else:
            shifted = jnp.concatenate([draws[:, :1], draws[:, : count - 1]], axis=1)
            x = (1 - each(low)) * clean + each(low) * shifted.reshape(x.shape)
    return Window(clean, x, own, begun)


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
    """All blocks of the window come one step down; the oldest is finished.

    Args:
      state, condition, active: as of ``blocks.step``.
      draws, source, fresh: as of :func:`denoised`.
    """
    found = denoised(engine, variables, state, condition, draws, source, fresh)
    return finished(engine, variables, state, condition, found, active)


def finished(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    condition: Array,
    found: Window,
    active: Array | None = None,
) -> tuple[GeneratorState, Made]:
    """The state after a step whose passes ``found`` this: the oldest block is in the memory."""
    r, (clean, x, own, begun) = engine.rollout, found
    size, batch = r.block, own.shape[0]
    count = own.shape[1] // size
    here = own[:, ::size] >= 0
    # the oldest block that is there; while the window fills this is no finished one
    oldest = jnp.argmax(here, axis=1).astype(jnp.int32)
    block = lambda a: a.reshape(batch, count, size, *a.shape[2:])
    pick = lambda a: jnp.take_along_axis(a, oldest.reshape(-1, *(1,) * (a.ndim - 1)), axis=1)[:, 0]
    done, ids = pick(block(clean)), pick(block(own))
    after = state
    if r.clean:
        zero = jnp.zeros(ids.shape, jnp.float32)
        read = engine.table(state, ids, clean=True)
        written = engine.peek(variables, state.memory, read, done, zero, condition)
        after = engine.commit(state, written, ids, done)
    after = replace(after, noisy=x[:, size:], begun=begun, steps=state.steps + 1)
    # a window that is empty stays as it is
    busy = here.any(axis=1)
    busy = busy if active is None else busy & active
    made = Made(done, here[:, 0] & busy, ids[:, 0])
    return hold(after, state, busy), made

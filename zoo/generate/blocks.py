"""A step that finishes one block: a few denoising passes, then the memory is written."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.gaps import hold
from ...layers.streaming import Array, Params
from .engine import Engine, Seen, controlled
from .participation import compressed
from .state import GeneratorState, Made


def over(per_stream: Array, like: Array) -> Array:
    """Numbers [B] or [B, F] that multiply ``like`` [B, F, ...]."""
    return per_stream.reshape(per_stream.shape + (1,) * (like.ndim - per_stream.ndim))


def noise(state: GeneratorState, shape: tuple[int, ...]) -> Array:
    """Normal numbers [B, *shape] of this step: each stream's own, whoever is in its batch."""

    def one(key: Array, step: Array) -> Array:
        own = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.normal(jax.random.fold_in(own, step), shape, jnp.float32)

    return jax.vmap(one)(state.key, state.steps)


def step(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    condition: Array,
    draws: Array | None = None,
    source: Array | None = None,
    active: Array | None = None,
    control: Array | None = None,
) -> tuple[GeneratorState, Made]:
    """One block more.

    Args:
      state: of the streams.
      condition: [B, K, D].
      draws: [B, P, F, h, w, C], the noise of each pass; None: of the streams' own keys.
      source: [B, F, h, w, C], clean frames of another video that are brought to the first level;
        None: the first level is noise alone.
      active: [B] bool, streams that take part; the others stay bit for bit.
      control: [B, F, h, w, D], channels beside the latents of each pass, such as motion tracks.
    """
    r = engine.rollout
    passes = r.levels.passes
    shape = (r.block, *engine.shapes.frame_shape)
    if draws is None:
        draws = noise(state, (passes.times.shape[1], *shape))
    start = state.memory.seen
    own = start[:, None] + jnp.arange(r.block, dtype=jnp.int32)[None]
    phase = jnp.minimum(start // r.block, len(passes.counts) - 1)
    times, sigmas = jnp.asarray(passes.times)[phase], jnp.asarray(passes.sigmas)[phase]
    counts = jnp.asarray(passes.counts)[phase]
    first = sigmas[:, 0]
    x = draws[:, 0] * over(first, draws[:, 0])
    if source is not None:
        x = x + source * over(1 - first, source)
    before = state
    if r.keep.top:
        time = jnp.broadcast_to(times[:, :1], own.shape)
        state = compressed(engine, variables, state, own, controlled(x, control), time, condition)
    table = engine.table(state, own)

    def at(row: Array, p: Array) -> Array:
        """What a schedule [B, P] says for pass p; 0 behind its end."""
        inside = jnp.minimum(p, row.shape[1] - 1)
        return jnp.where(p < counts, jnp.take(row, inside, axis=1), 0.0)

    def one_pass(p: Array, loop: tuple[Array, Seen]) -> tuple[Array, Seen]:
        x, last = loop
        time = jnp.broadcast_to(at(times, p)[:, None], own.shape)
        seen = engine.peek(variables, state.memory, table, controlled(x, control), time, condition)
        clean = x - over(at(sigmas, p), x) * seen.flow
        # the next level of a block that has one; else 0, and the frames are finished
        up, again = at(sigmas, p + 1), jnp.minimum(p + 1, draws.shape[1] - 1)
        fresh = jax.lax.dynamic_index_in_dim(draws, again, 1, keepdims=False)
        after = (1 - over(up, x)) * clean + over(up, x) * fresh
        busy = p < counts + int(r.clean)
        return hold((after, seen), (x, last), busy)

    shapes = jax.eval_shape(
        lambda x: engine.peek(
            variables,
            state.memory,
            table,
            controlled(x, control),
            jnp.zeros(own.shape, jnp.float32),
            condition,
        ),
        x,
    )
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    alike = len(set(r.levels.calls)) == 1
    most = (
        np.int32(r.levels.calls[0]) if alike else counts.max()
    )  # only then the trip count is known
    x, seen = jax.lax.fori_loop(np.int32(0), most + np.int32(r.clean), one_pass, (x, nothing))
    after = engine.commit(state, seen, own, x)
    after = replace(after, begun=after.begun + 1, steps=after.steps + 1)
    made = Made(x, jnp.ones(start.shape, bool), start)
    if active is None:
        return after, made
    return hold(after, before, active), made._replace(valid=active)


def extend(
    engine: Engine, variables: Params, state: GeneratorState, latents: Array, condition: Array
) -> GeneratorState:
    """A block of finished frames [B, F, h, w, C] becomes part of the streams."""
    start = state.memory.seen
    own = start[:, None] + jnp.arange(latents.shape[1], dtype=jnp.int32)[None]
    table = engine.table(state, own, clean=True)
    seen = engine.peek(
        variables, state.memory, table, latents, jnp.zeros(own.shape, jnp.float32), condition
    )
    after = engine.commit(state, seen, own, latents)
    return replace(after, begun=after.begun + 1, steps=after.steps + 1)

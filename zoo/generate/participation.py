"""A full memory before a block begins: of its frames, the tokens that the block attends to stay.

Source: Yi et al., "Deep Forcing" (arXiv 2512.05081), section 4.3; ``layers.rollout.participation``
says what differs.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.gaps import hold
from ...layers.memory import Slots
from ...layers.rollout.keep import RECENT, SINK, TOP
from ...layers.rollout.participation import strongest
from ...layers.streaming import Array, Params
from .engine import Engine
from .state import GeneratorState


def compressed(
    engine: Engine,
    variables: Params,
    state: GeneratorState,
    own: Array,
    latents: Array,
    times: Array,
    condition: Array,
) -> GeneratorState:
    """The state as a block finds it: compressed where memory and block fill the window.

    Between the sinks and the latest ``keep.near`` frames only as many tokens stay as ``keep.top``
    frames have. They stand in a row right before the frames that stay, each in its own cell.

    Args:
      own: [B, F] int32, the frames of the block.
      latents: [B, F, h, w, C], noisy, as in its first pass.
      times: [B, F], of that pass.
      condition: [B, K, D].
    """
    keep, memory = engine.rollout.keep, state.memory
    counted = jnp.asarray(np.isin(keep.region, (SINK, RECENT, TOP)))[None]
    used = (counted & (memory.notes["serial"] >= 0)).sum(axis=1, dtype=jnp.int32)
    full = used + own.shape[1] >= engine.rollout.read.window

    def weighed(memory: Slots) -> Slots:
        table = engine.table(state, own)
        score = engine.weigh(variables, memory, table, latents, times, condition)
        return hold(chosen(engine, memory, score), memory, full)

    # the pass is run only when a stream needs it
    memory = jax.lax.cond(full.any(), weighed, lambda memory: memory, memory)
    return replace(state, memory=memory)


def chosen(engine: Engine, memory: Slots, score: Array) -> Slots:
    """The memory with the candidates of the best ``score`` [B, C, N] in the slots of ``TOP``."""
    keep, serial = engine.rollout.keep, memory.notes["serial"]
    batch, tokens = serial.shape[0], score.shape[-1]
    region = jnp.asarray(keep.region)[None]
    ring = (region == RECENT) & (serial >= 0)
    last = jnp.where(ring, serial, -1).max(axis=1, keepdims=True)
    old = ring & (serial <= last - keep.near)
    leaves = old | ((region == TOP) & (serial >= 0))
    # from the newest one on: small numbers, however long a stream runs
    time = (serial - last)[..., None] * tokens + jnp.arange(tokens, dtype=jnp.int32)[None, None]
    here = jnp.broadcast_to(leaves[..., None], score.shape)
    flat = lambda a: a.reshape(batch, -1)
    best = strongest(flat(score), flat(time), flat(here), keep.top * tokens)
    slots = keep.first(TOP) + jnp.arange(keep.top, dtype=jnp.int32)

    def moved(rows: Array) -> Array:  # [B, L, C, N * heads, Dh]
        each = rows.reshape(*rows.shape[:2], rows.shape[2] * tokens, -1)
        taken = jnp.take_along_axis(each, best[:, None, :, None], axis=2)
        return rows.at[:, :, slots].set(taken.reshape(*rows.shape[:2], keep.top, *rows.shape[3:]))

    cells = jnp.take_along_axis(flat(memory.notes["cell"]), best, axis=1)
    cell = memory.notes["cell"].at[:, slots].set(cells.reshape(batch, keep.top, tokens))
    # in a row, before the first frame that stays
    place = last - keep.near + 1 - keep.top + jnp.arange(keep.top, dtype=jnp.int32)[None]
    serial = jnp.where(old, -1, serial).at[:, slots].set(place)
    return replace(
        memory,
        keys=moved(memory.keys),
        values=moved(memory.values),
        notes={"serial": serial, "cell": cell},
    )

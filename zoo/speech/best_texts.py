"""The best texts of recognisers that write: beam search over what a decoder says."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ...layers.streaming import Array, Carry, Params


@functools.partial(jax.jit, static_argnames=("model", "room", "beam"))
def best_texts(
    model: Any,
    params: Params,
    features: Array,
    seen: Array,
    limit: Array,
    room: int,
    told: Array,
    there: Array,
    beam: int,
    never: Array | None = None,
    never_first: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The ``beam`` most likely continuations of one text, best first.

    A text is its tokens and the end; one that has ``limit`` tokens needs no end. With as many kept
    as there can be, the search is exact.

    Args:
      model, params, features, seen, room, never, never_first: as of
        :func:`~.written.best_of`, for one utterance: features [1, F, D].
      limit: int32, tokens at most.
      told: [P] int32, of which the first ``there`` were written already.
      beam: texts that are kept.

    Returns:
      (tokens [beam, room], how many [beam], log-probabilities [beam]); those that are none have
      -inf.
    """
    apply, end = model.apply, model.config.end
    wide = lambda a: jnp.broadcast_to(a, (beam, *a.shape[1:]))
    memory = apply(params, wide(features), wide(seen), room + told.shape[0], method="begin")
    memory, logits = apply(params, memory, wide(told[None]), method="write")
    logits = jnp.take(logits, there - 1, axis=1)
    memory = memory._replace(written=there.astype(memory.written.dtype))

    def chances(logits: Array, *banned: Array | None) -> Array:
        for mask in banned:
            logits = logits if mask is None else jnp.where(mask, -jnp.inf, logits)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def choose(scores: Array, done: Array, rows: Array) -> Any:
        """-> (scores, which text each goes on from, its next token)."""
        # a text that is done has one way on: as it is
        stays = jnp.full(rows.shape[-1], -jnp.inf).at[end].set(0.0)
        rows = jnp.where(done[:, None], stays, rows)
        flat = (scores[:, None] + rows).reshape(-1)
        scores, place = jax.lax.top_k(flat, beam)
        return scores, place // rows.shape[-1], (place % rows.shape[-1]).astype(jnp.int32)

    def going(state: Carry) -> Array:
        *_, done, _, at = state
        return jnp.any(~done) & (at < jnp.minimum(limit, room))

    def step(state: Carry) -> Any:
        memory, rows, scores, tokens, done, count, at = state
        scores, source, token = choose(scores, done, rows)
        was, count = done[source], count[source]
        done = was | (token == end) | (scores == -jnp.inf)
        tokens = tokens[source].at[:, at].set(jnp.where(done, end, token))
        count = count + ~done
        pick = lambda a: a[:, source]
        memory = memory._replace(keys=pick(memory.keys), values=pick(memory.values))
        memory, logits = apply(params, memory, token[:, None], method="write")
        return memory, chances(logits[:, 0], never), scores, tokens, done, count, at + 1

    # all begin as one text: the others are none
    scores = jnp.full(beam, -jnp.inf).at[0].set(0.0)
    tokens = jnp.full((beam, room), end, jnp.int32)
    done, count = jnp.zeros(beam, bool), jnp.zeros(beam, jnp.int32)
    first = chances(logits, never, never_first)
    state = (memory, first, scores, tokens, done, count, jnp.int32(0))
    _, _, scores, tokens, _, count, _ = jax.lax.while_loop(going, step, state)
    return tokens, count, scores

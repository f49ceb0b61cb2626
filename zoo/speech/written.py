"""What recognisers that write have in common: blocks that read the audio once and tokens as they
come, and the best token after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...layers.kernels.attention import attention
from ...layers.streaming import Array, Carry, Params
from ...layers.transformer import Block
from ...layers.transformer.attention import Rope


class Prompt(NamedTuple):
    """What a text begins with, and what it never says.

    tokens: the start, and, where the model knows several languages, language and task.
    never, never_first: tokens that are not said, or not as the first.
    """

    tokens: tuple[int, ...]
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()


class Memory(NamedTuple):
    """What a decoder has read and written.

    keys, values: [L, B, N, H, Dh] of the tokens so far, those behind ``written`` are empty.
    heard_keys, heard_values: [L, B, F, H, Dh] of the audio.
    seen: [B, F] bool, which features are of audio that is there.
    written: int32, tokens so far.
    """

    keys: Array
    values: Array
    heard_keys: Array
    heard_values: Array
    seen: Array
    written: Array


def heard(blocks: Sequence[Block], features: Array, seen: Array, room: int) -> Memory:
    """The memory of a decoder that has heard ``features`` [B, F, D], those that are ``seen``
    [B, F], and can write ``room`` tokens."""
    heads = (*features.shape[:2], blocks[0].config.heads, -1)
    read = [
        (block.cross.key(features).reshape(heads), block.cross.value(features).reshape(heads))
        for block in blocks
    ]
    keys, values = (jnp.stack(parts) for parts in zip(*read, strict=True))
    empty = jnp.zeros((len(blocks), features.shape[0], room, *keys.shape[3:]), keys.dtype)
    return Memory(empty, empty, keys, values, seen, jnp.int32(0))


def wrote(
    blocks: Sequence[Block],
    memory: Memory,
    x: Array,
    rope: Rope | None = None,
    looks: list[Array] | None = None,
) -> tuple[Memory, Array]:
    """x [B, N, D] of the tokens that follow what ``memory`` has, through all blocks.

    ``looks`` gets of every block how much each token's place sees of each feature, [B, H, N, F].
    """
    at, room = memory.written, memory.keys.shape[2]
    before, own = jnp.arange(room)[None] <= (at + jnp.arange(x.shape[1]))[:, None], []
    for i, block in enumerate(blocks):
        q, k, v = block.attn.project(block.norm1(x), rope)
        keys = jax.lax.dynamic_update_slice_in_dim(memory.keys[i], k, at, 1)
        values = jax.lax.dynamic_update_slice_in_dim(memory.values[i], v, at, 1)
        x = x + block.attn.attend(q, keys, values, mask=before)[0]
        q = block.cross.query(block.norm_cross(x)).reshape(q.shape)
        seen = memory.seen[:, None, None]
        if looks is not None:
            near = jnp.einsum("bnhd,bfhd->bhnf", q, memory.heard_keys[i]) * q.shape[-1] ** -0.5
            looks.append(jax.nn.softmax(jnp.where(seen, near.astype(jnp.float32), -jnp.inf)))
        y = attention(q, memory.heard_keys[i], memory.heard_values[i], mask=seen)
        x = x + block.cross.out(y.reshape(x.shape))
        x = x + block.mlp(block.norm2(x))
        own.append((keys, values))
    keys, values = (jnp.stack(parts) for parts in zip(*own, strict=True))
    written = at + jnp.int32(x.shape[1])
    return memory._replace(keys=keys, values=values, written=written), x


@functools.partial(jax.jit, static_argnames=("model", "room"))
def best_tokens(
    model: Any,
    params: Params,
    audio: Array,
    lengths: Array,
    limit: Array,
    room: int,
    prompt: Array | None = None,
    never: Array | None = None,
    never_first: Array | None = None,
) -> tuple[Array, Array]:
    """Greedy decoding.

    Args:
      model, params: a module with ``encode``, ``begin`` and ``write``, whose config has ``end``
        and, where there is no prompt, ``start``.
      audio: [B, T] from -1 to 1 at 16 kHz.
      lengths: [B] samples that are there.
      limit: [B] tokens at most.
      room: tokens that are kept.
      prompt: [P] int32, what every text begins with; None: ``config.start``.
      never, never_first: [V] bool, tokens that are not said, or not as the first.

    Returns:
      (tokens [B, room] without the prompt, how many of them came before the end [B]).
    """
    features, seen = model.apply(params, audio, lengths, method="encode")
    prompt = jnp.full((1,), model.config.start, jnp.int32) if prompt is None else prompt
    told = jnp.broadcast_to(prompt, (features.shape[0], len(prompt)))
    given = (features, seen, limit, room, told, None, never, never_first)
    return best_of(model, params, *given)


@functools.partial(jax.jit, static_argnames=("model", "room"))
def best_of(
    model: Any,
    params: Params,
    features: Array,
    seen: Array,
    limit: Array,
    room: int,
    told: Array | None = None,
    there: Array | None = None,
    never: Array | None = None,
    never_first: Array | None = None,
) -> tuple[Array, Array]:
    """Greedy decoding of what was heard already: ``features`` [B, F, D], those that are ``seen``
    [B, F]. The rest as :func:`best_tokens`, but ``told`` [B, P], what was written already, of which
    the first ``there`` (int32, one for all) are; None: all of them."""
    apply, end, batch = model.apply, model.config.end, features.shape[0]
    told = jnp.full((batch, 1), model.config.start, jnp.int32) if told is None else told
    memory = apply(params, features, seen, room + told.shape[1], method="begin")
    memory, logits = apply(params, memory, told, method="write")
    if there is None:
        logits = logits[:, -1]
    else:  # what lies behind is written over
        logits = jnp.take(logits, there - 1, axis=1)
        memory = memory._replace(written=there.astype(memory.written.dtype))

    def best(logits: Array, *banned: Array | None) -> Array:
        for mask in banned:
            logits = logits if mask is None else jnp.where(mask, -jnp.inf, logits)
        return jnp.argmax(logits, -1).astype(jnp.int32)

    def going(state: Carry) -> Array:
        return jnp.any(~state[3]) & (state[5] < room)

    def step(state: Carry) -> Any:
        memory, last, out, done, count, at = state
        out = out.at[:, at].set(jnp.where(done, end, last))
        count, at = count + ~done, at + 1
        memory, logits = apply(params, memory, last[:, None], method="write")
        last = best(logits[:, 0], never)
        return memory, last, out, done | (last == end) | (at >= limit), count, at

    first = best(logits, never, never_first)
    out = jnp.full((batch, room), end, jnp.int32)
    none = jnp.zeros(batch, jnp.int32)
    state = (memory, first, out, (first == end) | (limit <= 0), none, jnp.int32(0))
    _, _, out, _, count, _ = jax.lax.while_loop(going, step, state)
    return out, count

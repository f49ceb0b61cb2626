"""The gated delta rule as two kernels: one frame, and a clip chunk by chunk.

Both go over (streams, heads) and read and write each state once, in place. A clip's chunks are a
loop inside; where all of its frames do not fit a TPU's memory, a sequential last axis of the grid
carries the state in the output block (on a GPU, where a grid has no order, it has one entry).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ..blocks import blocks_for, power_of_two_divisor
from ..integers import quotient, remainder
from .reference import power_of_two

Array = jax.Array
HIGHEST = lax.Precision.HIGHEST
TPU_BYTES = 9 << 20  # of all blocks of a program, each twice (one in flight)
MIN_CHUNK = 16  # rows of a matrix product on a GPU


class Blocks(NamedTuple):
    """Sizes of a program: streams, heads and (clips only) chunks of the grid's time axis."""

    rows: int
    heads: int
    chunks: int


def _lanes(n: int) -> int:
    return -(-n // 128) * 128


def _heads(heads: int, aim: int, fits: Callable[[int], bool]) -> int:
    """The most heads, at most ``aim``, that divide all of them and fit; else the fewest that do."""
    able = [h for h in range(1, heads + 1) if heads % h == 0 and (h == heads or fits(h))]
    return max((h for h in able if h <= aim), default=able[0])


def tpu_blocks(streams: int, heads: int, dk: int, dv: int, chunk: int, count: int) -> Blocks:
    """The table's program as far as it fits; ``count`` chunks of ``chunk`` frames."""
    aim = blocks_for("gated_delta", "tpu", "step" if chunk == 1 else "clip")
    most = min(aim["rows"], streams)
    state = 2 * dk * _lanes(dv) * 4
    if chunk == 1:
        vectors = (2 * _lanes(dk) + 2 * _lanes(dv) + 2 * 128) * 4
        per_head = 2 * (state + vectors)
        aimed = min(aim["heads"], TPU_BYTES // per_head)
        some = _heads(heads, aimed, lambda h: h % 8 == 0)  # a part is whole tiles of sublanes
        return Blocks(max(1, min(most, TPU_BYTES // (some * per_head))), some, 1)
    # Heads lie side by side in the lanes, so a part of them must be a multiple of 128 lanes.
    some = _heads(heads, aim["heads"], lambda h: h * dk % 128 == 0 and h * dv % 128 == 0)
    frames = chunk * (2 * _lanes(some * dk) + 2 * _lanes(some * dv)) * 4 + some * 8 * _lanes(chunk)
    rest = TPU_BYTES // 2 - some * state
    chunks = max(1, min(count, aim["chunks"], rest // frames))
    rows = 1
    if chunks == count:
        rows = max(1, min(most, TPU_BYTES // (2 * (some * state + count * frames))))
    return Blocks(rows, some, chunks)


def gpu_blocks(streams: int, heads: int, dk: int, dv: int, chunk: int, count: int) -> Blocks:
    """Powers of two that divide streams and heads, all chunks."""
    aim = blocks_for("gated_delta", "cuda", "step" if chunk == 1 else "clip")
    rows = power_of_two_divisor(streams, aim["rows"])
    return Blocks(rows, power_of_two_divisor(heads, aim["heads"]), count)


def _column(row: Array) -> Array:
    """[1, n] -> [n, 1], by a masked sum: portable, and exact."""
    n = row.shape[1]
    eye = lax.broadcasted_iota(jnp.int32, (n, n), 0) == lax.broadcasted_iota(jnp.int32, (n, n), 1)
    return jnp.sum(jnp.where(eye, row, 0.0), axis=1, keepdims=True)


def _step_body(q_ref, k_ref, v_ref, g_ref, beta_ref, s_ref, o_ref, out_ref):
    """q, k [rows, heads, dk], v, o [rows, heads, dv], g, beta [rows, heads, 1], s the states."""
    rows, heads, dk, _ = s_ref.shape

    def one(n, _):
        row, head = quotient(n, heads), remainder(n, heads)
        at = (row, pl.ds(head, 1))
        load = lambda ref: ref[at].astype(jnp.float32)
        decay = jnp.exp(load(g_ref))  # [1, 1]
        state = jnp.where(decay == 0, 0.0, decay * s_ref[row, head])
        k = load(k_ref).reshape(dk, 1)
        q = load(q_ref).reshape(dk, 1) * dk**-0.5
        read = jnp.sum(k * state, axis=0, keepdims=True)
        state = state + k * (load(beta_ref) * (load(v_ref) - read))
        out_ref[row, head] = state
        o_ref[at] = jnp.sum(q * state, axis=0, keepdims=True)
        return 0

    lax.fori_loop(0, rows * heads, one, 0, unroll=min(4, rows * heads))


def step(
    q, k, v, g, beta, state, *, blocks: Blocks, interpret=False, compiler_params=None
) -> tuple[Array, Array]:
    """One frame: q, k [B, H, dk], v [B, H, dv], g, beta [B, H]; the state is updated in place."""
    batch, heads, dk, dv = state.shape
    rows, some = blocks.rows, blocks.heads
    g, beta = g[..., None], beta[..., None]
    # Single rows of a 16-bit array are no unit of a TPU's memory.
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    vector = lambda d: pl.BlockSpec((rows, some, d), lambda i, h: (i, h, 0))
    matrix = pl.BlockSpec((rows, some, dk, dv), lambda i, h: (i, h, 0, 0))
    return pl.pallas_call(
        _step_body,
        grid=(-(-batch // rows), heads // some),
        in_specs=[*(vector(d) for d in (dk, dk, dv, 1, 1)), matrix],
        out_specs=[vector(dv), matrix],
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, dv), jnp.float32),
            jax.ShapeDtypeStruct(state.shape, jnp.float32),
        ],
        input_output_aliases={5: 1},
        interpret=interpret,
        compiler_params=compiler_params,
        name="gated_delta_step",
    )(q, k, v, g, beta, state)


def _dot(x: Array, y: Array, precision: jax.lax.PrecisionLike) -> Array:
    return jnp.dot(x, y, precision=precision, preferred_element_type=jnp.float32)


def _chunk(dot, q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array):
    """One chunk of one head, as in the reference; g and beta [1, C]."""
    size = q.shape[0]
    i = lax.broadcasted_iota(jnp.int32, (size, size), 0)
    j = lax.broadcasted_iota(jnp.int32, (size, size), 1)
    lower, strict = i >= j, i > j
    beta = _column(beta)
    log_decay = dot(lower.astype(jnp.float32), jnp.where(strict, _column(g), 0.0))
    decay = jnp.where(lower, jnp.exp(jnp.where(lower, log_decay, 0.0)), 0.0)
    start = jnp.exp(jnp.sum(jnp.where(lower, g, 0.0), axis=1, keepdims=True))
    end = jnp.exp(jnp.sum(jnp.where(j > i, g, 0.0), axis=1, keepdims=True))
    whole = jnp.exp(jnp.sum(g, axis=1, keepdims=True))

    same = lambda n: quotient(i, n) == quotient(j, n)
    system = jnp.where(strict, beta * dot(k, k.T) * decay, 0.0)
    inverse = (i == j).astype(jnp.float32) - jnp.where(same(2), system, 0.0)
    width = 2
    while width < size:  # X <- X - X S X, with S the blocks between pairs of inverted ones
        pair = same(2 * width) & ~same(width)
        between = dot(jnp.where(pair, system, 0.0), inverse)
        inverse = inverse - dot(inverse, between)
        width *= 2
    q = q * q.shape[1] ** -0.5
    update = dot(inverse, beta * (v - start * dot(k, state)))
    o = start * dot(q, state) + dot(dot(q, k.T) * decay, update)
    return o, whole * state + dot((k * end).T, update)


def _clip_body(
    q_ref,
    k_ref,
    v_ref,
    gate_ref,
    s_ref,
    o_ref,
    out_ref,
    *,
    chunk: int,
    parts: int,
    precision: jax.lax.PrecisionLike,
):
    """q, k [rows, T, heads * dk], v, o to match, gate [rows, heads, chunks, 2, C]."""
    dot = functools.partial(_dot, precision=precision)
    rows, heads, dk, dv = s_ref.shape
    chunks = gate_ref.shape[2]
    part = pl.program_id(2)

    def one(row, head):
        keys, values = pl.ds(head * dk, dk), pl.ds(head * dv, dv)

        def load():  # a reset at the first frame forgets a state that is not finite, too
            decay = jnp.exp(gate_ref[row, head, 0, pl.ds(0, 1), pl.ds(0, 1)])
            return jnp.where(decay == 0, 0.0, s_ref[row, head])

        if parts > 1:

            @pl.when(part == 0)
            def _():
                out_ref[row, head] = load()

            state = out_ref[row, head]
        else:
            state = load()

        def advance(n, state):
            time = pl.ds(pl.multiple_of(n * chunk, chunk), chunk)
            q, k, v = (
                ref[row, time, lanes].astype(jnp.float32)
                for ref, lanes in ((q_ref, keys), (k_ref, keys), (v_ref, values))
            )
            g, beta = (gate_ref[row, head, n, pl.ds(m, 1), :] for m in (0, 1))
            o, state = _chunk(dot, q, k, v, g, beta, state)
            o_ref[row, time, values] = o
            return state

        out_ref[row, head] = lax.fori_loop(0, chunks, advance, state)

    def stream(row, _):
        for head in range(heads):
            one(row, head)
        return 0

    lax.fori_loop(0, rows, stream, 0)


def chunk_size(chunk: int, steps: int) -> int:
    """Frames per chunk of the kernel: a power of two, at least 16."""
    return max(MIN_CHUNK, power_of_two(min(chunk, steps)))


def clip(
    q, k, v, g, beta, state, *,
    chunk: int, blocks: Blocks, precision: jax.lax.PrecisionLike = HIGHEST, interpret=False,
    compiler_params=None,
) -> tuple[Array, Array]:  # fmt: skip
    """T > 1 frames in chunks of :func:`chunk_size`; shapes as the operation's. ``precision`` of the
    matrix products."""
    batch, heads, dk, dv = state.shape
    steps = q.shape[1]
    rows, some, chunks = blocks
    parts = -(-steps // (chunk * chunks))
    padded = parts * chunks * chunk

    def flat(x):  # [B, T, H, d] -> [B, padded, H * d]; frames of zeros change nothing
        x = x.reshape(batch, steps, -1)
        return jnp.pad(x, [(0, 0), (0, padded - steps), (0, 0)]) if padded > steps else x

    gate = jnp.stack([flat(g), flat(beta)]).astype(jnp.float32)
    gate = gate.reshape(2, batch, parts * chunks, chunk, heads).transpose(1, 4, 2, 0, 3)
    moving = lambda d: pl.BlockSpec((rows, chunks * chunk, some * d), lambda i, h, t: (i, t, h))
    matrix = pl.BlockSpec((rows, some, dk, dv), lambda i, h, t: (i, h, 0, 0))
    gates = pl.BlockSpec((rows, some, chunks, 2, chunk), lambda i, h, t: (i, h, t, 0, 0))
    o, state = pl.pallas_call(
        functools.partial(_clip_body, chunk=chunk, parts=parts, precision=precision),
        grid=(-(-batch // rows), heads // some, parts),
        in_specs=[moving(dk), moving(dk), moving(dv), gates, matrix],
        out_specs=[moving(dv), matrix],
        out_shape=[
            jax.ShapeDtypeStruct((batch, padded, heads * dv), jnp.float32),
            jax.ShapeDtypeStruct(state.shape, jnp.float32),
        ],
        input_output_aliases={4: 1},
        interpret=interpret,
        compiler_params=compiler_params,
        name="gated_delta_clip",
    )(flat(q), flat(k), flat(v), gate, state)
    return o[:, :steps].reshape(batch, steps, heads, dv), state

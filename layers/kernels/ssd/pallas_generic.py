"""SSD as one Pallas body for TPU, Triton and the interpreter: a step kernel and a chunk kernel.

The grid runs over streams and tiles of channels; time stays inside, so that the state of a tile is
read once and written once per call. A tile holds whole heads, or a part of one: several heads
share it by masking, which costs nothing on a matrix unit that is 128 wide anyway.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from ...streaming import Carry
from ..blocks import blocks_for
from ..dispatch import GPU_DOT, KernelError
from ..integers import quotient
from ..split import Split
from .reference import chunked

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST
TILE = 128  # channels come in multiples of it, or the state would be copied around the kernel
SEGMENT = 1024  # frames per program of the chunk kernel: what lies in fast memory at once


def _dot(a: Array, b: Array, precision: jax.lax.PrecisionLike) -> Array:
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _lanes(shape: tuple[int, int], each: int, index: int) -> Array:
    """Where channels of a tile belong to its part ``index`` of ``each`` channels."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return (lane >= index * each) & (lane < (index + 1) * each)


def _step_kernel(q_ref, k_ref, v_ref, g_ref, s_ref, o_ref, out_ref, *, rows, group):
    """q, k [rows, groups, 1, n]; v, g, o [rows, 1, tile]; s [rows, n, tile]."""
    groups, n = k_ref.shape[1], k_ref.shape[3]
    tile = v_ref.shape[2]

    def column(ref, row):
        parts = [ref[row, i].astype(jnp.float32).reshape(n, 1) for i in range(groups)]
        full = parts[0]
        for i in range(1, groups):
            full = jnp.where(_lanes((n, tile), group, i), parts[i], full)
        return full

    for row in range(rows):
        s = s_ref[row] * jnp.exp(g_ref[row])
        s = s + column(k_ref, row) * v_ref[row].astype(jnp.float32)
        out_ref[row] = s
        o_ref[row] = jnp.sum(s * column(q_ref, row), axis=0, keepdims=True)


def _chunk_kernel(
    q_ref, k_ref, v_ref, g_ref, s_ref, o_ref, out_ref, *, size, head, group, precision
):
    """q, k [groups, T, n]; v, g, o [T, tile]; s [n, tile]."""
    dot = functools.partial(_dot, precision=precision)
    groups, steps = k_ref.shape[:2]
    tile = v_ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    col = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    lower, later = (row >= col).astype(jnp.float32), (row < col).astype(jnp.float32)
    heads = max(1, tile // head)

    def part(x, each, index):  # the channels of one part of the tile, the others zero
        return x if each >= tile else jnp.where(_lanes(x.shape, each, index), x, 0.0)

    def advance(i, s):
        at = pl.ds(i * size, size)
        v, g = v_ref[at, :].astype(jnp.float32), g_ref[at, :]
        begin = jnp.exp(dot(lower, g))  # from the state to frame i
        write = v * jnp.exp(dot(later, g))  # from frame i to the end of the chunk
        o = jnp.zeros((size, tile), jnp.float32)
        new = s * jnp.exp(jnp.sum(g, axis=0, keepdims=True))
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, tile), 1)
        for i_group in range(groups):
            q = q_ref[i_group, at, :].astype(jnp.float32)
            k = k_ref[i_group, at, :].astype(jnp.float32)
            o = o + begin * part(dot(q, s), group, i_group)
            new = new + dot(k.T, part(write, group, i_group))
            scores = dot(q, k.T)
            for h in range(i_group * heads // groups, (i_group + 1) * heads // groups):
                # g_{j+1} + .. + g_i as a product: no difference of large sums
                own = jnp.sum(jnp.where(lane == h * head, g, 0.0), axis=1, keepdims=True)
                logs = dot(lower, jnp.where(row > col, own, 0.0))
                mixed = jnp.where(row >= col, jnp.exp(logs) * scores, 0.0)
                o = o + dot(mixed, part(v, head, h))
        o_ref[at, :] = o
        return new

    out_ref[...] = jax.lax.fori_loop(0, steps // size, advance, s_ref[...])


class Options(NamedTuple):
    """What a kernel is built with; ``params`` are further arguments of the Pallas call."""

    chunk: int
    rows: int  # streams per program of the step
    lanes: int  # channels per program
    precision: jax.lax.PrecisionLike  # of the matrix products
    params: tuple[tuple[str, Any], ...] = ()

    def call(self, kernel: Any, name: str, v: Array, state: Array, **specs: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (v, state)]
        return pl.pallas_call(
            kernel,
            out_shape=shapes,
            input_output_aliases={4: 1},
            name=name,
            **specs,
            **dict(self.params),
        )


def _step(q: Array, k: Array, v: Array, g: Array, state: Array, options: Options):
    """One frame of B streams. Arguments as the reference's."""
    batch, _, groups, n = k.shape
    channels, lanes = v.shape[2], options.lanes
    group = channels // groups
    held, share = max(1, lanes // group), max(1, group // lanes)  # groups per tile, tiles per group
    # the batch of an export may be a symbol, which divides by one
    rows = math.gcd(batch, options.rows) if isinstance(batch, int) else 1
    row = pl.BlockSpec((rows, 1, lanes), lambda b, i: (b, 0, i))
    feature = pl.BlockSpec((rows, held, 1, n), lambda b, i: (b, quotient(i, share), 0, 0))
    square = pl.BlockSpec((rows, n, lanes), lambda b, i: (b, 0, i))
    fold = lambda a: a.reshape(batch, groups, 1, n)
    step = options.call(
        functools.partial(_step_kernel, rows=rows, group=group),
        "ssd_step",
        v,
        state,
        grid=(batch // rows, channels // lanes),
        in_specs=[feature, feature, row, row, square],
        out_specs=[row, square],
    )
    return step(fold(q), fold(k), v, jnp.repeat(g, channels // g.shape[2], axis=-1), state)


def _segment(
    q: Array, k: Array, v: Array, g: Array, state: Array, head: int, size: int, options: Options
):
    """T frames, T a multiple of ``size``; q, k [B, G, T, n], g [B, T, H * P]."""
    batch, groups, steps, n = k.shape
    channels, lanes = v.shape[2], options.lanes
    group = channels // groups
    held, share = max(1, lanes // group), max(1, group // lanes)
    feature = pl.BlockSpec((None, held, steps, n), lambda b, i: (b, quotient(i, share), 0, 0))
    rows = pl.BlockSpec((None, steps, lanes), lambda b, i: (b, 0, i))
    square = pl.BlockSpec((None, n, lanes), lambda b, i: (b, 0, i))
    run = options.call(
        functools.partial(
            _chunk_kernel, size=size, head=head, group=group, precision=options.precision
        ),
        "ssd_chunk",
        v,
        state,
        grid=(batch, channels // lanes),
        in_specs=[feature, feature, rows, rows, square],
        out_specs=[rows, square],
    )
    return run(q, k, v, g, state)


def _clip(q: Array, k: Array, v: Array, g: Array, state: Array, options: Options):
    """Any T: padded to whole chunks (such frames change nothing), long clips in segments."""
    batch, steps = v.shape[:2]
    head = v.shape[2] // g.shape[2]
    size = min(options.chunk, max(16, 1 << (steps - 1).bit_length()))
    count = -(-steps // SEGMENT)
    length = -(-steps // (count * size)) * size
    g = jnp.repeat(g, head, axis=-1)

    def split(a):  # [B, T, ...] -> [count, B, length, ...]
        a = jnp.pad(a, [(0, 0), (0, count * length - steps)] + [(0, 0)] * (a.ndim - 2))
        return a.reshape(batch, count, length, *a.shape[2:]).swapaxes(0, 1)

    def advance(state, part):
        q, k, v, g = part
        o, state = _segment(q, k, v, g, state, head, size, options)
        return state, o

    parts = (split(q).swapaxes(2, 3), split(k).swapaxes(2, 3), split(v), split(g))
    if count == 1:
        state, o = advance(state, tuple(a[0] for a in parts))
        return o[:, :steps], state
    state, o = jax.lax.scan(advance, state, parts)
    return o.swapaxes(0, 1).reshape(batch, count * length, -1)[:, :steps], state


def _forward(q, k, v, g, state, *, platform, chunk, blocks, precision=HIGHEST, **params):
    sizes = blocks_for("ssd", platform, "", dict(blocks or ()))
    widths = {v.shape[2]: "channels", v.shape[2] // g.shape[2]: "channels of a head"}
    widths[v.shape[2] // k.shape[2]] = "channels of a group"
    lanes = sizes["lanes"]
    for width, what in widths.items():
        if width % lanes and (lanes % width or what == "channels"):
            raise KernelError(f"ssd: block size lanes={lanes} does not fit {width} {what}")
    options = Options(chunk, sizes["rows"], lanes, precision, tuple(params.items()))
    g, state = g.astype(jnp.float32), state.astype(jnp.float32)
    return (_step if v.shape[1] == 1 else _clip)(q, k, v, g, state, options)


def _compiled(*arrays, **options):
    def cuda(*arrays):
        params = plt.CompilerParams(num_warps=4, num_stages=2)
        return _forward(
            *arrays, platform="cuda", precision=GPU_DOT, compiler_params=params, **options
        )

    tpu = functools.partial(_forward, platform="tpu", **options)
    return jax.lax.platform_dependent(*arrays, cuda=cuda, default=tpu)


_interpreted = functools.partial(_forward, platform="tpu", interpret=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _run(forward, chunk, blocks, split, q, k, v, g, state):
    own = "." if split.ways("h") == 1 or k.shape[2] == 1 else "h"  # one group serves all heads
    inputs = (f"b.{own}.",) * 2 + ("b.h", "b.h", "b.h")
    kernel = functools.partial(forward, chunk=chunk, blocks=blocks)
    plain = functools.partial(chunked, chunk=chunk)
    return split.run(kernel, plain, inputs, ("b.h", "b.h"))(q, k, v, g, state)


def _save(forward, chunk, blocks, split, *arrays):
    return _run(forward, chunk, blocks, split, *arrays), arrays


def _backward(forward, chunk, blocks, split, saved, cotangents):
    # Matrix products over whole chunks, as XLA writes them: a kernel would bring nothing.
    return jax.vjp(functools.partial(chunked, chunk=chunk), *saved)[1](cotangents)


_run.defvjp(_save, _backward)
Blocks = tuple[tuple[str, int], ...] | None


def parts(q: Array, k: Array, v: Array, g: Array, state: Carry, **_: Any) -> dict[str, int]:
    """How many streams and heads can be cut apart: heads in whole groups, and whole tiles."""
    del q, state
    heads, groups = g.shape[2], k.shape[2]
    return {"b": v.shape[0], "h": math.gcd(heads if groups == 1 else groups, v.shape[2] // TILE)}


def compiled(
    *arrays: Array, split: Split, chunk: int = 64, blocks: Blocks = None
) -> tuple[Array, Array]:
    """The kernels, with the blocks of the platform that is lowered for; as the reference."""
    return _run(_compiled, chunk, blocks, split, *arrays)


def interpret(
    *arrays: Array, split: Split, chunk: int = 64, blocks: Blocks = None
) -> tuple[Array, Array]:
    """The same bodies by the HLO interpreter."""
    return _run(_interpreted, chunk, blocks, split, *arrays)


def unable(
    q: Array, k: Array, v: Array, g: Array, state: Carry, *, chunk: int = 64, blocks: Blocks = None
) -> str | None:
    """Why the kernels cannot take these arguments, or None."""
    n, channels = k.shape[3], v.shape[2]
    for name, a in (("q", q), ("k", k), ("v", v)):
        if a.dtype not in (jnp.float32, jnp.bfloat16):
            return f"{name} has dtype {a.dtype}; float32 or bfloat16 is wanted"
    if channels % TILE:
        return f"v has {channels} channels, which is no multiple of {TILE}"
    if n < 16 or n > 256 or n & (n - 1):
        return f"k has {n} features, which is no power of two from 16 to 256"
    for name, parts in (("heads", g.shape[2]), ("groups", k.shape[2])):
        width = channels // parts
        if width % TILE and TILE % width:
            return f"{parts} {name} have width {width}, no divisor or multiple of {TILE}"
    if v.shape[1] > 1 and (chunk < 16 or chunk > 128 or chunk & (chunk - 1)):
        return f"chunk {chunk} is no power of two from 16 to 128"
    return None

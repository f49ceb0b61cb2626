"""The linear recurrence as one kernel: each block of channels goes through all frames on chip.

The grid is (stream, rows, channels, time). On a TPU the time axis is sequential and carries the
state in the output block ``last``; on a GPU, where a grid has no order, it has one entry.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ..blocks import blocks_for, power_of_two_divisor

Array = jax.Array
TPU_ELEMENTS = 350_000  # of a block: a, b and h in fp32, twice (one in flight) stay below 9 MiB
MIN_GPU_CHANNELS = 16


class Blocks(NamedTuple):
    """Sizes of a block; rows is 1 where there is no such axis."""

    frames: int
    rows: int
    channels: int


def _whole_or(unit: int, n: int, most: int) -> int:
    """n where it is at most ``most``, else the largest multiple of ``unit`` that is, at best one
    that divides n; at least one unit."""
    if n <= most:
        return n
    most = max(unit, most // unit * unit)
    return next((m for m in range(most, 0, -unit) if n % m == 0), most)


def tpu_blocks(steps: int, rows: int | None, channels: int) -> Blocks:
    """The table's block as far as it fits; rows None where there is no such axis."""
    aim = blocks_for("linear_scan", "tpu", "plain" if rows is None else "rows")
    if rows is None:  # frames are sublanes here: a multiple of 8, or all
        frames = steps if steps <= aim["frames"] else max(8, aim["frames"] // 8 * 8)
        most = min(aim["channels"], TPU_ELEMENTS // frames)
        return Blocks(frames, 1, _whole_or(128, channels, most))
    wide = _whole_or(128, channels, aim["channels"])
    frames = min(steps, aim["frames"])
    most = min(aim["rows"], TPU_ELEMENTS // (frames * max(wide, 128)))
    return Blocks(frames, _whole_or(8, rows, most), wide)


def gpu_blocks(steps: int, rows: int | None, channels: int) -> Blocks:
    """All frames; powers of two that divide the other axes, rows for channels that are missing."""
    aim = blocks_for("linear_scan", "cuda", "plain" if rows is None else "rows")
    wide = power_of_two_divisor(channels, aim["channels"])
    most = max(1, aim["rows"] * aim["channels"] // wide)
    return Blocks(steps, power_of_two_divisor(rows or 1, most), wide)


def _body(a_ref, b_ref, h0_ref, h_ref, last_ref, *, steps: int, block: int, reverse: bool):
    count, segments = block, -(-steps // block)
    if segments > 1:
        segment = pl.program_id(3)

        @pl.when(segment == 0)
        def _():
            last_ref[...] = h0_ref[...].astype(jnp.float32)

        if steps % block:
            partial = 0 if reverse else segments - 1
            count = jnp.where(segment == partial, steps % block, block)
        start = last_ref[...]
    else:
        start = h0_ref[...].astype(jnp.float32)

    def step(n, h):
        now = pl.ds(count - 1 - n if reverse else n, 1)
        a = a_ref[now].astype(jnp.float32)
        h = jnp.where(a == 0, 0.0, a * h) + b_ref[now].astype(jnp.float32)
        h_ref[now] = h
        return h

    last_ref[...] = lax.fori_loop(0, count, step, start)


def scan(
    a: Array,
    b: Array,
    h0: Array,
    *,
    reverse: bool,
    blocks: Blocks,
    interpret: bool = False,
    compiler_params=None,
) -> tuple[Array, Array]:
    """As ``reference.scan``; shapes as of :func:`canonical`."""
    streams, steps = a.shape[:2]
    frames, high, wide = blocks
    segments = -(-steps // frames)
    rows = a.shape[2] if a.ndim == 4 else 1
    grid = (streams, -(-rows // high), -(-a.shape[-1] // wide), segments)

    def at(time):
        if a.ndim == 4:
            return lambda i, r, c, t: (i, time(t), r, c)
        return lambda i, r, c, t: (i, time(t), c)

    inner = (high, wide) if a.ndim == 4 else (wide,)
    moving = pl.BlockSpec(
        (None, frames, *inner), at((lambda t: segments - 1 - t) if reverse else (lambda t: t))
    )
    state = pl.BlockSpec((None, 1, *inner), at(lambda t: 0))
    h, last = pl.pallas_call(
        functools.partial(_body, steps=steps, block=frames, reverse=reverse),
        grid=grid,
        in_specs=[moving, moving, state],
        out_specs=[moving, state],
        out_shape=[
            jax.ShapeDtypeStruct(a.shape, jnp.float32),
            jax.ShapeDtypeStruct((streams, 1, *a.shape[2:]), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=compiler_params,
        name="linear_scan_reverse" if reverse else "linear_scan",
    )(a, b, h0[:, None])
    return h, last[:, 0]


def canonical(a: Array, b: Array, h0: Array) -> tuple[Array, Array, Array]:
    """a, b [B, T, D] or [B, T, rows, D] and h0 to match, by merging the axes between.

    Rows of [B, T, D] are single sublanes, which TPUs address in 32-bit types only: fp32 there.
    """
    lead, tail = a.shape[:2], a.shape[2:]
    if len(tail) <= 1:
        shape = (*lead, *(tail or (1,)))
        a, b = (x.reshape(shape).astype(jnp.float32) for x in (a, b))
    else:
        shape = (*lead, -1, tail[-1])
        a, b = a.reshape(shape), b.reshape(shape)
    return a, b, h0.reshape(shape[0], *a.shape[2:])

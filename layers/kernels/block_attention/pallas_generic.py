"""Block-gather attention for Triton (and interpret mode): a program reads only its pages."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..blocks import blocks_for, power_of_two_divisor
from ..integers import quotient, remainder
from .layout import Tiles, attend_page, pack_positions, pack_rows, tiles, unpack_rows
from .reference import Sizes

Array = jax.Array


def _rows(count: int, most: int) -> int:
    """Triton wants powers of two, and its matrix units 16 rows; many rows are cut into tiles."""
    if count > most:
        return -(-count // most) * most
    return max(16, 1 << (count - 1).bit_length())


def unable(q, k, v, pages, key_pos, query_pos, *, heads, kv_heads, page, blocks=None, **_):
    del pages, key_pos, query_pos, blocks
    width, values = q.shape[-1] // heads, v.shape[-1] // kv_heads
    for name, size in (("q", width), ("v", values)):
        if size & (size - 1) or size < 16 or size > 256:
            return f"{name} has head width {size}, which is no power of two in 16 .. 256"
    if page % 16:
        return f"page {page} is no multiple of 16"
    if k.shape[1] % page:
        return f"k has {k.shape[1]} slots, no whole number of pages of {page}"
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
            return f"{name} is {x.dtype}, neither float32, bfloat16 nor float16"
    return None


def _kernel(
    pages, q_ref, k_ref, v_ref, pos_ref, now_ref, y_ref, lse_ref, *, t: Tiles, page, window, scale
):
    q, now = q_ref[...], now_ref[...]
    line = t.page_list(pl.program_id(2))
    piece = pos_ref.shape[-1]
    parts = page // piece

    def body(j, state):
        chosen = pages[line, quotient(j, parts)]
        here = jnp.maximum(chosen, 0) * parts + remainder(j, parts)
        start = pl.multiple_of(here * piece, piece)
        return attend_page(
            state,
            q,
            k_ref[pl.ds(start, piece), :],
            v_ref[pl.ds(start, piece), :],
            pos_ref[pl.ds(here, 1), :],
            now,
            page_valid=chosen >= 0,
            window=window,
            scale=scale,
        )

    rows = q.shape[0]
    state = (
        jnp.full((rows, 1), -1e30, jnp.float32),
        jnp.zeros((rows, 1), jnp.float32),
        jnp.zeros((rows, y_ref.shape[-1]), jnp.float32),
    )
    peak, total, acc = jax.lax.fori_loop(0, pages.shape[-1] * parts, body, state)
    total = jnp.maximum(total, 1e-30)
    y_ref[...] = (acc / total).astype(y_ref.dtype)
    lse_ref[...] = peak + jnp.log(total)


def block_attention(
    q: Array,
    k: Array,
    v: Array,
    pages: Array,
    key_pos: Array,
    query_pos: Array,
    *,
    heads: int,
    kv_heads: int,
    page: int,
    window: int | None,
    scale: float,
    blocks: Sizes = None,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """As ``reference.block_attention``."""
    sizes = blocks_for("block_attention", "cuda", "", dict(blocks or ()))
    slots, width, values = k.shape[1], k.shape[-1] // kv_heads, v.shape[-1] // kv_heads
    most = 1 << max(4, sizes["rows"].bit_length() - 1)
    t = tiles(q, pages, heads, kv_heads, 1, functools.partial(_rows, most=most))
    none, rows, piece = None, min(most, t.rows), power_of_two_divisor(page, sizes["keys"])
    whole = lambda size: pl.BlockSpec((none, slots, size), lambda b, g, h, r: (b, 0, h))

    def tile(size):
        return pl.BlockSpec((none, none, none, rows, size), lambda b, g, h, r: (b, g, h, r, 0))

    y, lse = pl.pallas_call(
        functools.partial(_kernel, t=t, page=page, window=window, scale=scale),
        grid=(t.batch, t.groups, t.programs, t.rows // rows),
        in_specs=[
            pl.BlockSpec(
                (none, none, *pages.shape[2:]),
                lambda b, g, h, r: (b, g, 0, 0),
                memory_space=pltpu.SMEM,
            ),
            tile(width),
            whole(width),
            whole(values),
            pl.BlockSpec((none, slots // piece, piece), lambda b, g, h, r: (b, 0, 0)),
            pl.BlockSpec((none, none, rows, 1), lambda b, g, h, r: (b, g, r, 0)),
        ],
        out_specs=[tile(values), tile(1)],
        out_shape=[
            jax.ShapeDtypeStruct((t.batch, t.groups, t.programs, t.rows, values), q.dtype),
            jax.ShapeDtypeStruct((t.batch, t.groups, t.programs, t.rows, 1), jnp.float32),
        ],
        interpret=interpret,
        name="block_attention",
    )(
        pages,
        pack_rows(q, t),
        k,
        v,
        key_pos.reshape(t.batch, slots // piece, piece),
        pack_positions(query_pos, t),
    )
    steps = q.shape[1]
    return unpack_rows(y, t, steps), unpack_rows(lse, t, steps, lanes=False)

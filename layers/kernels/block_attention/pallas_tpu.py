"""Block-gather attention for TPU: page numbers are prefetched, the pipeline fetches the pages.

The cache stays in HBM and is never copied: each grid step brings a few pages into VMEM, at
addresses that the index maps read from the page list.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..blocks import blocks_for
from .layout import Tiles, attend_page, pack_positions, pack_rows, tiles, unpack_rows
from .reference import Sizes

Array = jax.Array
LANES = 128
WIDEST = 512  # lanes of heads that do not fill blocks of 128 and so lie in one block
# Page numbers of one call, which must fit into scalar memory: more make several calls.
ENTRIES = 1 << 16


def _pack(width: int, kv_heads: int) -> int:
    """Key heads in one lane block: 128 lanes, or the whole axis where heads do not fill those."""
    if width % LANES == 0:
        return 1
    pack = LANES // width
    return pack if LANES % width == 0 and kv_heads % pack == 0 else kv_heads


def _rows(count: int) -> int:
    return -(-count // 16) * 16


def _per_step(count: int, page: int, blocks: Sizes) -> int:
    """Pages per grid step, as a step has a fixed price."""
    keys = blocks_for("block_attention", "tpu", "", dict(blocks or ()))["keys"]
    return min(count, max(1, keys // page))


def unable(q, k, v, pages, key_pos, query_pos, *, heads, kv_heads, page, blocks=None, **_):
    del key_pos, query_pos
    width, values = q.shape[-1] // heads, v.shape[-1] // kv_heads
    if width != values:
        return f"q has head width {width} and v {values}, which must be equal here"
    pack = _pack(width, kv_heads)
    if width % LANES and pack * width > WIDEST:
        return (
            f"q has head width {width} in {kv_heads} key heads, which neither fill 128 lanes nor "
            f"lie in {WIDEST}"
        )
    if page % 8:
        return f"page {page} is no multiple of 8"
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dtype not in (jnp.float32, jnp.bfloat16):
            return f"{name} is {x.dtype}, neither float32 nor bfloat16"
    if not isinstance(pages.shape[0], int):  # the batch of an export
        return f"pages has {pages.shape[0]} streams, no number by which calls could be cut"
    if pages.size // len(pages) > ENTRIES:
        return (
            f"pages has {pages.size // len(pages)} entries for one of its {len(pages)}, more than "
            f"the {ENTRIES} held in scalar memory"
        )
    t = tiles(q, pages, heads, kv_heads, pack, _rows)
    lanes = -(-pack * width // LANES) * LANES
    step = _per_step(pages.shape[-1], page, blocks)
    # q and y twice (pipelined) and the accumulator; positions and sums take whole lane rows
    need = t.rows * (lanes * 5 + 5 * LANES) * 4 + 4 * step * page * lanes * 4
    need += t.rows * page * 4 * 3 + page * page * 8
    if need > 12 << 20:
        return (
            f"q has {t.rows} rows per page list and page is {page}: {need >> 10} KiB of VMEM, "
            "12288 fit: give pages to smaller groups of queries, or smaller pages"
        )
    return None


def _kernel(pages, q_ref, now_ref, *refs, t: Tiles, per_step, window, scale):
    keys, values, places = (refs[i * per_step : (i + 1) * per_step] for i in range(3))
    y_ref, lse_ref, peak_ref, total_ref, acc_ref = refs[3 * per_step :]
    b, g, h, j = (pl.program_id(i) for i in range(4))

    @pl.when(j == 0)
    def _():
        peak_ref[...] = jnp.full(peak_ref.shape, -1e30, jnp.float32)
        total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)
        acc_ref[...] = jnp.zeros(acc_ref.shape, jnp.float32)

    start = _line(t, b, g, h) * per_step * pl.num_programs(3) + j * per_step
    state = peak_ref[...], total_ref[...], acc_ref[...]
    for i in range(per_step):
        state = attend_page(
            state,
            q_ref[...],
            keys[i][...],
            values[i][...],
            places[i][...],
            now_ref[...],
            page_valid=pages[start + i] >= 0,
            window=window,
            scale=scale,
        )
    peak_ref[...], total_ref[...], acc_ref[...] = state

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        total = jnp.maximum(total_ref[...], 1e-30)
        y_ref[...] = (acc_ref[...] / total).astype(y_ref.dtype)
        lse_ref[...] = peak_ref[...] + jnp.log(total)


def _line(t: Tiles, b, g, h):
    """Which page list of the flat array a program reads."""
    return (b * t.groups + g) * t.lists + t.page_list(h)


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
    """As ``reference.block_attention``; ``blocks``: see there."""
    batch, slots = k.shape[:2]
    per_step = _per_step(pages.shape[-1], page, blocks)
    wanted = -(-pages.shape[-1] // per_step) * per_step
    pages = jnp.pad(pages, [(0, 0)] * 3 + [(0, wanted - pages.shape[-1])], constant_values=-1)
    count = -(-slots // page)
    key_pos = jnp.pad(key_pos, [(0, 0), (0, count * page - slots)], constant_values=-1)
    key_pos = key_pos.reshape(batch, count, 1, page)
    at_once = max(1, ENTRIES // (pages.size // batch))
    parts = []
    for begin in range(0, batch, at_once):  # each reads its part of the store where it lies
        part = lambda x, begin=begin: x[begin : begin + at_once]
        parts.append(
            _call(
                part(q), k, v, part(pages), key_pos, part(query_pos), begin=begin, heads=heads,
                kv_heads=kv_heads, per_step=per_step, window=window, scale=scale,
                interpret=interpret,
            )
        )  # fmt: skip
    y, lse = (jnp.concatenate(x) if len(parts) > 1 else x[0] for x in zip(*parts, strict=True))
    return y, lse


def _call(
    q,
    k,
    v,
    pages,
    key_pos,
    query_pos,
    *,
    begin,
    heads,
    kv_heads,
    per_step,
    window,
    scale,
    interpret,
) -> tuple[Array, Array]:
    """Of the entries of the store from ``begin`` on, as many as q has; key_pos [B, pages, 1, P]."""
    page, wanted = key_pos.shape[-1], pages.shape[-1]
    width = k.shape[-1] // kv_heads
    pack = _pack(width, kv_heads)
    t = tiles(q, pages, heads, kv_heads, pack, _rows)
    lanes, steps = pack * width, q.shape[1]
    none = None

    def at(i):
        def which(b, g, h, j, flat):
            return jnp.maximum(flat[_line(t, b, g, h) * wanted + j * per_step + i], 0)

        return which

    def paged(i):
        where = at(i)
        return pl.BlockSpec(
            (none, page, lanes),
            lambda b, g, h, j, flat: (begin + b, where(b, g, h, j, flat), t.lane_block(h)),
        )

    def places(i):
        where = at(i)
        return pl.BlockSpec(
            (none, none, 1, page),
            lambda b, g, h, j, flat: (begin + b, where(b, g, h, j, flat), 0, 0),
        )

    def tile(size):
        return pl.BlockSpec(
            (none, none, none, t.rows, size), lambda b, g, h, j, flat: (b, g, h, 0, 0)
        )

    each = range(per_step)
    y, lse = pl.pallas_call(
        functools.partial(_kernel, t=t, per_step=per_step, window=window, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(t.batch, t.groups, t.programs, wanted // per_step),
            in_specs=[
                tile(lanes),
                pl.BlockSpec((none, none, t.rows, 1), lambda b, g, h, j, flat: (b, g, 0, 0)),
                *(paged(i) for i in each),
                *(paged(i) for i in each),
                *(places(i) for i in each),
            ],
            out_specs=[tile(lanes), tile(1)],
            scratch_shapes=[
                pltpu.VMEM((t.rows, 1), jnp.float32),
                pltpu.VMEM((t.rows, 1), jnp.float32),
                pltpu.VMEM((t.rows, lanes), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((t.batch, t.groups, t.programs, t.rows, lanes), q.dtype),
            jax.ShapeDtypeStruct((t.batch, t.groups, t.programs, t.rows, 1), jnp.float32),
        ],
        interpret=interpret,
        name="block_attention",
    )(
        pages.reshape(-1),
        pack_rows(q, t),
        pack_positions(query_pos, t),
        *(k for _ in each),
        *(v for _ in each),
        *(key_pos for _ in each),
    )
    return unpack_rows(y, t, steps), unpack_rows(lse, t, steps, lanes=False)

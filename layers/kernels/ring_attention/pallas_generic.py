"""Ring attention in the portable part of Pallas: one walk over the slots with an online softmax.

One program serves one stream, one query frame, one tile of its tokens and one group of heads, and
walks the slots: per slot the query (not the key) is turned by how far that slot lies behind it,
so keys are read once and as they lie. ``frame``: dots of a tile with a slot's tokens, as in
FlashAttention (arXiv 2205.14135). ``position``: a token meets its own past only, elementwise,
bound by bandwidth.
Codes of 8 or 4 bits are widened in registers; 4-bit ones as two planes, halves of each head.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ...streaming import DType
from ..integers import quotient
from .reference import Keys

Array = jax.Array
FAR = -1e30
HIGHEST = lax.Precision.HIGHEST


class Plan(NamedTuple):
    """Static facts of one call. A plane is all channels, or with 4 bits half of every head."""

    over: str
    tokens: int  # N, keys of one slot
    kept: int  # N' >= N, as the ring holds them
    planes: int
    heads: int  # heads in one lane group
    kv_heads: int  # heads of all lane groups
    head: int  # channels of a head in a plane
    lanes: int  # heads * head: minor dimension of the blocks
    rows: int  # query tokens of one tile
    part: int  # key tokens of one dot
    slots: int  # key frames in one block
    frames: int  # K, key frames in all
    tiled: bool  # blocks hold whole slots and a tile clamps its rows (Triton: powers of two)
    scale: float
    rope: bool
    quantised: bool


class Operands(NamedTuple):
    """Arrays in the kernel's layout, P planes of D lanes; R query rows, per position R = N."""

    q: Array  # [B, T, P, R, D]
    swapped: Array  # as q: the query turned by a quarter
    k: Array  # [B, K, N', D]
    v: Array
    gaps: Array  # [B, T, K, 1] fp32 how far behind, negative: not seen
    rates: Array  # [1, lanes] fp32
    k_scale: Array | None  # [B, K, P * all heads, N']
    v_scale: Array | None


def arrange(q: Array, keys: Keys, gaps: Array, rates: Any, heads, kv_heads, over, lanes):
    """-> :class:`Operands` without copies of k and v. Groups of query heads that share a key head
    become further rows (frame) or further query frames (position)."""
    batch, steps, tokens, dim = q.shape
    head, group = dim // heads, heads // kv_heads
    planes = 1 if keys.k_scale is None else keys.k_scale.shape[-2] // kv_heads
    wide = kv_heads * head // planes  # D
    low, high = jnp.split(q.reshape(batch, steps, tokens, kv_heads, group, head), 2, axis=-1)

    def lay(low: Array, high: Array) -> Array:
        x = jnp.stack([low, high]) if planes == 2 else jnp.concatenate([low, high], -1)[None]
        if over == "position":  # p b t n h g d -> b (t g) p n (h d)
            return x.transpose(1, 2, 5, 0, 3, 4, 6).reshape(batch, -1, planes, tokens, wide)
        return x.transpose(1, 2, 0, 5, 3, 4, 6).reshape(batch, steps, planes, -1, wide)

    if over == "position":
        gaps = jnp.repeat(gaps, group, axis=1)
    rates = jnp.zeros(head // 2) if rates is None else jnp.asarray(rates)
    rates = jnp.tile(rates, 2 // planes * (lanes * planes // head))[None]
    return Operands(
        lay(low, high),
        lay(-high, low),
        keys.k,
        keys.v,
        gaps.astype(jnp.float32)[..., None],
        rates.astype(jnp.float32),
        keys.k_scale,
        keys.v_scale,
    )


def restore(y: Array, heads: int, kv_heads: int, over: str, tokens: int, steps: int) -> Array:
    """Undoes :func:`arrange` on outputs [B, T, P, R, D]: [B, T, N, heads * Dh]."""
    batch, _, planes, _, _ = y.shape
    group = heads // kv_heads
    if over == "position":  # b t g p n h d -> b t n h g p d
        y = y.reshape(batch, steps, group, planes, tokens, kv_heads, -1)
        y = y.transpose(0, 1, 4, 5, 2, 3, 6)
    else:  # b t p g n h d
        y = y.reshape(batch, steps, planes, group, tokens, kv_heads, -1)
        y = y.transpose(0, 1, 4, 5, 3, 2, 6)
    return y.reshape(batch, steps, tokens, -1)


def widen(x: Array, planes: int) -> list[Array]:
    """Codes (or keys as they are) in fp32, one array a plane."""
    if planes == 1:
        return [x.astype(jnp.float32)]
    x = x.astype(jnp.int32)
    return [((x << 28) >> 28).astype(jnp.float32), (x >> 4).astype(jnp.float32)]


def _turn(q: Array, swapped: Array, gap: Array, rates: Array, plan: Plan) -> Array:
    if not plan.rope:
        return q
    angle = gap * rates  # [1, lanes]
    return q * jnp.cos(angle) + swapped * jnp.sin(angle)


def _dot(a: Array, b: Array, transposed: bool, dtype: DType) -> Array:
    """a @ b (or b.T) with fp32 sums; fp32 operands in full, narrower ones in one pass."""
    dims = (((1,), (1 if transposed else 0,)), ((), ()))
    exact = HIGHEST if dtype == jnp.float32 else None
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        dims,
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def start_state(plan: Plan) -> tuple:
    """Online softmax of nothing: (peak, sum, weighted values per plane), per head of a frame."""
    if plan.over == "frame":
        one = (plan.rows, 1)
        values = (jnp.zeros((plan.rows, plan.head), jnp.float32),) * plan.planes
        state = (jnp.full(one, FAR, jnp.float32), jnp.zeros(one, jnp.float32), *values)
        return (state,) * plan.heads
    one = (plan.rows, 1 if plan.heads == 1 else plan.lanes)
    values = (jnp.zeros((plan.rows, plan.lanes), jnp.float32),) * plan.planes
    return ((jnp.full(one, FAR, jnp.float32), jnp.zeros(one, jnp.float32), *values),)


def _frame_step(state, q, swapped, k, v, gap, live, rates, k_scale, v_scale, plan: Plan, dtype):
    """One part of one slot against a tile of queries. ``live`` [1, n] keys that count."""
    turned = [_turn(a, b, gap, rates, plan) for a, b in zip(q, swapped, strict=True)]
    k, v = widen(k, plan.planes), widen(v, plan.planes)
    live = live & (gap >= 0)
    new = []
    for h, (peak, total, *values) in enumerate(state):
        part = slice(h * plan.head, (h + 1) * plan.head)
        logits = jnp.zeros((plan.rows, plan.part), jnp.float32)
        for p in range(plan.planes):
            dot = _dot(turned[p][:, part], k[p][:, part], True, dtype)
            if plan.quantised:
                dot *= k_scale(p, h)
            logits += dot
        logits = jnp.where(live, logits * plan.scale, FAR)
        top = jnp.maximum(peak, logits.max(-1, keepdims=True))
        weights = jnp.where(live, jnp.exp(logits - top), 0.0)
        shrink = jnp.exp(peak - top)
        total = total * shrink + weights.sum(-1, keepdims=True)
        for p in range(plan.planes):
            spread = weights
            if plan.quantised:
                spread = jnp.where(live, weights * v_scale(p, h), 0.0)
            clean = jnp.where(gap >= 0, v[p][:, part], 0.0)  # NaN in slots that do not count
            values[p] = values[p] * shrink + _dot(spread, clean, False, dtype)
        new.append((top, total, *values))
    return tuple(new)


def _sum_heads(x: Array, plan: Plan, exact: bool) -> Array:
    """Sums of each head's lanes: [n, 1] of a single head, else on every lane of the head."""
    if plan.heads == 1:
        return x.sum(-1, keepdims=True)
    row = lax.broadcasted_iota(jnp.int32, (plan.lanes, plan.lanes), 0)
    col = lax.broadcasted_iota(jnp.int32, (plan.lanes, plan.lanes), 1)
    ones = (quotient(row, plan.head) == quotient(col, plan.head)).astype(jnp.float32)
    if exact:
        return _dot(x, ones, False, jnp.float32)
    high = x.astype(jnp.bfloat16)  # two passes keep 16 bits of the products
    rest = x - high.astype(jnp.float32)
    return _dot(high, ones, False, jnp.bfloat16) + _dot(rest, ones, False, jnp.bfloat16)


def _spread(
    ref: Any, i: Array | int, first: Array | int, rows: Any, plan: Plan, exact: bool
) -> Array:
    """Scales of slot i from group ``first`` on, on the lanes of their heads: [n, lanes | 1]."""
    if plan.tiled:
        return ref[i, first, rows][:, None]
    scale = ref[i]  # [groups, n]; a product turns it over
    row = lax.broadcasted_iota(jnp.int32, (scale.shape[0], plan.lanes), 0)
    col = lax.broadcasted_iota(jnp.int32, (scale.shape[0], plan.lanes), 1)
    pick = (row == first + quotient(col, plan.head)).astype(jnp.float32)
    turned = (((0,), (0,)), ((), ()))

    def product(a: Array, dtype: DType) -> Array:
        precision = HIGHEST if dtype == jnp.float32 else None
        return lax.dot_general(
            a.astype(dtype),
            pick.astype(dtype),
            turned,
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    if exact:
        return product(scale, jnp.float32)
    high = scale.astype(jnp.bfloat16)
    return product(high, jnp.bfloat16) + product(scale - high.astype(jnp.float32), jnp.bfloat16)


def _position_step(state, q, swapped, k, v, gap, rates, k_scale, v_scale, plan: Plan, exact):
    """One slot against the queries of the same tokens."""
    ((peak, total, *values),) = state
    k, v = widen(k, plan.planes), widen(v, plan.planes)
    logits = jnp.zeros_like(peak)
    for p in range(plan.planes):
        product = _turn(q[p], swapped[p], gap, rates, plan) * k[p]
        if plan.quantised:
            product *= k_scale(p)
        logits += _sum_heads(jnp.where(gap >= 0, product, 0.0), plan, exact)
    logits = jnp.where(gap >= 0, logits * plan.scale, FAR)
    top = jnp.maximum(peak, logits)
    weights = jnp.where(gap >= 0, jnp.exp(logits - top), 0.0)
    shrink = jnp.exp(peak - top)
    for p in range(plan.planes):
        value = v[p] * v_scale(p) if plan.quantised else v[p]
        values[p] = values[p] * shrink + weights * jnp.where(gap >= 0, value, 0.0)
    return ((top, total * shrink + weights, *values),)


def walk(refs: Operands, state: tuple, first: Array | int, plan: Plan, dtype: DType) -> tuple:
    """The state after all slots of this block, of which ``first`` is the first one's number."""
    row = 0
    if plan.tiled:  # the last tile overlaps the one before it: no padding, no masked stores
        row = jnp.minimum(pl.program_id(3) * plan.rows, refs.q.shape[1] - plan.rows)
    rows = pl.ds(row, plan.rows)
    q = [refs.q[p, rows, :].astype(jnp.float32) for p in range(plan.planes)]
    swapped = [refs.swapped[p, rows, :].astype(jnp.float32) for p in range(plan.planes)]
    rates = refs.rates[...]
    group = pl.program_id(1) * plan.heads  # the first head of this lane group

    def slot(i: Array | int, state: tuple) -> tuple:
        gap = refs.gaps[pl.ds(i, 1), :]  # [1, 1]
        if plan.slots * pl.cdiv(plan.frames, plan.slots) != plan.frames:
            gap = jnp.where(first + i < plan.frames, gap, -1.0)
        if plan.over == "position":
            exact = dtype == jnp.float32

            def spread(ref: Any, p: int) -> Array:
                return _spread(ref, i, group + p * plan.kv_heads, rows, plan, exact)

            scales = (
                functools.partial(spread, refs.k_scale),
                functools.partial(spread, refs.v_scale),
            )
            k, v = refs.k[i, rows, :], refs.v[i, rows, :]
            return _position_step(state, q, swapped, k, v, gap, rates, *scales, plan, exact)

        def part(j: Array | int, state: tuple) -> tuple:
            # The last part overlaps the one before it, and masks what that one had.
            at = jnp.minimum(j * plan.part, plan.tokens - plan.part) if count > 1 else 0
            keys = pl.ds(at, plan.part)
            column = lax.broadcasted_iota(jnp.int32, (1, plan.part), 1)
            live = (column >= j * plan.part - at) & (column < plan.tokens)

            def take(ref: Any, p: int, h: int) -> Array:
                return ref[i, pl.ds(group + p * plan.kv_heads + h, 1), keys]

            scales = functools.partial(take, refs.k_scale), functools.partial(take, refs.v_scale)
            k, v = refs.k[i, keys, :], refs.v[i, keys, :]
            return _frame_step(state, q, swapped, k, v, gap, live, rates, *scales, plan, dtype)

        count = pl.cdiv(plan.tokens, plan.part)
        return lax.fori_loop(0, count, part, state) if count > 1 else part(0, state)

    return lax.fori_loop(0, plan.slots, slot, state)


def finish(state: tuple, out: Any, plan: Plan) -> None:
    """Writes weighted values / sum; rows that saw nothing are zero."""
    row = 0
    if plan.tiled:
        row = jnp.minimum(pl.program_id(3) * plan.rows, out.shape[1] - plan.rows)
    for h, (_, total, *values) in enumerate(state):
        part = slice(None) if plan.over == "position" else slice(h * plan.head, (h + 1) * plan.head)
        for p, value in enumerate(values):
            y = value / jnp.maximum(total, 1e-30)
            out[p, pl.ds(row, plan.rows), part] = y.astype(out.dtype)


def specs(
    plan: Plan, operands: Operands, slot_axis: bool, stack: bool = False
) -> tuple[tuple, Any, list, Any]:
    """Grid (streams, lane groups, query frames, row tiles[, slot blocks]) and block specs.

    ``stack``: keys and scales are [B, L, ...], and a prefetched number says which layer is read.
    """
    batch, steps, planes, rows, wide = operands.q.shape
    tiles = pl.cdiv(rows, plan.rows)
    grid = (batch, wide // plan.lanes, steps, tiles)
    grid += (pl.cdiv(plan.frames, plan.slots),) if slot_axis else ()
    tile = rows if plan.tiled else plan.rows
    at = lambda n: 0 if plan.tiled else n
    position = plan.over == "position"
    own = tile if position and not plan.tiled else plan.kept  # key tokens of one block
    k_at = (lambda n: at(n)) if position else (lambda n: 0)
    s = lambda rest: rest[0] if slot_axis else 0

    q = pl.BlockSpec(
        (None, None, planes, tile, plan.lanes), lambda b, g, t, n, *_: (b, t, 0, at(n), g)
    )
    none = (None,) if stack else ()
    layer = (lambda r: (r[-1][0],)) if stack else (lambda r: ())
    k = pl.BlockSpec(
        (None, *none, plan.slots, own, plan.lanes),
        lambda b, g, t, n, *r: (b, *layer(r), s(r), k_at(n), g),
    )
    gaps = pl.BlockSpec((None, None, plan.slots, 1), lambda b, g, t, n, *r: (b, t, s(r), 0))
    rates = pl.BlockSpec((1, plan.lanes), lambda b, g, t, n, *_: (0, 0))
    every = [q, q, k, k, gaps, rates]
    if operands.k_scale is not None:
        shape = (None, *none, plan.slots, operands.k_scale.shape[-2], own)
        at_scale = lambda b, g, t, n, *r: (b, *layer(r), s(r), 0, k_at(n))
        every += 2 * [pl.BlockSpec(shape, at_scale)]
    return grid, every, [x for x in operands if x is not None], q


def _kernel(*refs: Any, plan: Plan, dtype: DType) -> None:
    *inputs, out = refs
    inputs = Operands(*inputs, *([None] * (8 - len(inputs))))
    finish(walk(inputs, start_state(plan), 0, plan, dtype), out, plan)


def call(plan: Plan, operands: Operands, dtype: DType, **params: Any) -> Array:
    """All slots of a stream in one program."""
    grid, in_specs, arrays, out = specs(plan, operands, slot_axis=False)
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan, dtype=dtype),
        grid=grid,
        in_specs=in_specs,
        out_specs=out,
        out_shape=jax.ShapeDtypeStruct(operands.q.shape, operands.q.dtype),
        name="ring_attention",
        **params,
    )(*arrays)


def power_of_two(n: int) -> int:
    """The largest power of two that is no larger than n."""
    return 1 << int(math.log2(n))


def lanes_of(kv_heads: int, head: int, planes: int, narrow: bool) -> int:
    """Lanes of one head group: one head (narrow), or whole heads that fill 128 lanes."""
    wide, head = kv_heads * head // planes, head // planes
    if narrow or head % 128 == 0:
        return head
    return 128 if 128 % head == 0 and wide % 128 == 0 else wide

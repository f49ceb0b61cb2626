"""Plain jnp sink + window attention over a ring of slots: the definition of correct.

The ring keeps the first ``sinks`` frames of a stream for ever and the last ``window`` frames, the
current one included. Keys are stored un-rotated; a position is assigned when they are read, by
order in the cache (Xiao et al., "StreamingLLM", arXiv 2309.17453): nothing grows with time, and
while nothing was evicted this is full causal attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...positions import rotate_halves
from ...stacked import Layer
from .ring import dequantise

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST
FEW = 16  # tokens: where the forms below change places in speed on a CPU


class Keys(NamedTuple):
    """What is read: the ring's slots and, if T > 1, the T new frames behind them: K frames."""

    k: Array  # [B, K, N' >= N, D], or codes
    v: Array
    k_scale: Array | None  # [B, K, groups, N']
    v_scale: Array | None
    pos: Array  # [B, K] int32 frame number, -1 where empty
    now: Array  # [B, T] int32 frame number of each query
    segment: Array | None  # [B, K] int32
    select: Array | None  # [B, T, M] int32, the segments that a query reads
    layer: Array | None = None  # int32; then k, v and the scales are [B, L, ...] of all layers

    def one_layer(self) -> Keys:
        """The same with the keys of the layer alone."""
        layer = self.layer
        if layer is None:
            return self
        names = ("k", "v", "k_scale", "v_scale")
        own = {name: getattr(self, name) for name in names}
        read = lambda a: None if a is None else Layer(a, layer).read(fused=True)
        return self._replace(layer=None, **{name: read(a) for name, a in own.items()})


def apart(keys: Keys, sinks: int, window: int) -> Array:
    """How many places of the cache lie between query and key: [B, T, K] int32, -1 if unseen.

    Differences of int32 frame numbers, so exact at any time.
    """
    pos, now = keys.pos[:, None], keys.now[..., None]
    sink = pos < sinks
    seen = (pos >= 0) & (pos <= now) & (sink | (pos > now - window))
    if keys.segment is not None and keys.select is not None:
        own = keys.segment[:, None, :, None] == keys.select[:, :, None]
        seen &= own.any(-1)
    # A sink stands still, and the place of a query stops growing once frames are evicted.
    place = jnp.where(sink, jnp.minimum(now, sinks + window - 1), now)
    return jnp.where(seen, place - pos, -1)


def time_rates(half: int, base: float, pairs: int | None) -> np.ndarray:
    """[half] fp32: how far each pair of a head turns per frame; pairs behind ``pairs``: not."""
    pairs = half if pairs is None else pairs
    rates = np.zeros(half, np.float32)
    rates[:pairs] = base ** (-np.arange(pairs, dtype=np.float32) / max(1, pairs))
    return rates


def _places(place: Array, low: int, high: int, rates: np.ndarray) -> tuple[Array, Array]:
    """cos and sin [B, K, Dh / 2] of int32 places [B, K] within low .. high (others: anything).

    Looked up: XLA would compute them again for every token and head that they turn.
    """
    angle = np.arange(low, high + 1)[:, None] * np.float64(rates)
    index = jnp.clip(place - low, 0, high - low)
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[index] for f in (np.cos, np.sin))
    return cos, sin


def read(
    q: Array,
    keys: Keys,
    *,
    heads: int,
    kv_heads: int,
    over: str,
    sinks: int,
    window: int,
    rope_base: float | None,
    pairs: int | None = None,
    blocks=None,
) -> Array:
    """Attention of q [B, T, N, heads x Dh] to ``keys``: [B, T, N, heads x Dh] in q's dtype.

    Sums in fp32. A query that sees no key gives zeros.
    """
    del blocks
    keys = keys.one_layer()
    head = q.shape[-1] // heads
    gaps = apart(keys, sinks, window)
    rates = None if rope_base is None else time_rates(head // 2, rope_base, pairs)
    if q.shape[1] == 1 and (q.shape[2] == 1 or over == "position"):
        return _own(q, keys, gaps[:, 0], rates, heads, kv_heads, sinks, window)
    if q.shape[1] == 1 and q.shape[2] <= FEW:
        return _few(q, keys, gaps[:, 0], rates, heads, kv_heads, sinks, window)
    return _dense(q, keys, gaps, rates, heads, kv_heads, over, sinks, window)


class _Past(NamedTuple):
    """What one frame of queries reads."""

    k: Array  # [B, K, N' >= N, D], or codes
    v: Array
    k_scale: Array | None
    v_scale: Array | None
    gaps: Array  # [B, K] int32, -1 if unseen


def _own(q, keys: Keys, gaps, rates, heads, kv_heads, sinks, window) -> Array:
    """One frame of queries, each over its own past: the window is read and never written."""

    def form(q: Array, past: _Past, clean: bool) -> Array:
        logits = _own_scores(q, past, rates, heads, kv_heads, sinks, window)
        seen = past.gaps >= 0
        weights = _softmax(jnp.where(seen[:, :, None, None, None], logits, -jnp.inf), (1,))
        v = dequantise(past.v, past.v_scale, kv_heads)[:, :, : q.shape[2]].astype(jnp.float32)
        if q.shape[2] > 1:
            y = _mean_in_steps(weights, v, seen)
        else:
            y = _mean_at_once(weights[:, :, 0], v[:, :, 0], None if clean else seen)
        return y.reshape(q.shape).astype(q.dtype)

    past = _Past(keys.k, keys.v, keys.k_scale, keys.v_scale, gaps)
    return _unguarded(form, q, past)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unguarded(form: Callable[[Array, _Past, bool], Array], q: Array, past: _Past) -> Array:
    """``form`` of what is there. An empty slot may hold NaN; forwards a choice of what is left out
    costs nothing behind the products, backwards it must be made before them, on a copy."""
    return form(q, past, False)


def _forwards(form, q: Array, past: _Past) -> tuple[Array, tuple[Array, _Past]]:
    return form(q, past, False), (q, past)


def _backwards(form, saved: tuple[Array, _Past], y: Array) -> tuple[Array, _Past]:
    q, past = saved
    there = (past.gaps >= 0)[..., None, None]
    kept = lambda x: jnp.where(there, x, jnp.zeros((), x.dtype))
    whole = jax.tree.map(kept, past._replace(gaps=None))._replace(gaps=past.gaps)
    return jax.vjp(lambda q, past: form(q, past, True), q, whole)[1](y)


_unguarded.defvjp(_forwards, _backwards)


def _own_scores(q, past: _Past, rates, heads, kv_heads, sinks, window) -> Array:
    """Logits [B, K, N, Hk, G], zeros where nothing is seen. Keys are turned, multiplied and added
    up in one pass, which a sum over whole heads would not let the compiler do in lanes."""
    batch, _, tokens, dim = q.shape
    head, group, half = dim // heads, heads // kv_heads, dim // heads // 2
    lanes = 16 if half % 16 == 0 else half
    k = dequantise(past.k, past.k_scale, kv_heads)[:, :, :tokens].astype(jnp.float32)
    k = k.reshape(*k.shape[:3], kv_heads, 1, head)
    q = q.astype(jnp.float32).reshape(batch, 1, tokens, kv_heads, group, head)
    turn = None
    if rates is not None:  # the query stays, the keys lie behind it
        most = sinks + window + 1
        turn = [a[:, :, None, None, None] for a in _places(-past.gaps, -most, most, rates)]
    total: Any = 0.0
    for i in range(0, half, lanes):
        low, high = (slice(n, n + lanes) for n in (i, half + i))
        ka, kb, qa, qb = k[..., low], k[..., high], q[..., low], q[..., high]
        if turn is not None:
            cos, sin = (a[..., low] for a in turn)
            ka, kb = ka * cos - kb * sin, kb * cos + ka * sin
        total += ka * qa + kb * qb
    there = (past.gaps >= 0)[:, :, None, None, None, None]
    return jnp.where(there, total, 0.0).sum(-1) * head**-0.5


def _mean_at_once(weights: Array, v: Array, seen: Array | None) -> Array:
    """Means of v [B, K, Dk] by weights [B, K, Hk, G]: one product for all heads, as in ``_few``.
    Values that are not ``seen`` [B, K] may hold NaN."""
    batch, slots, kv_heads, group = weights.shape

    def mean(v: Array) -> Array:
        turned = weights.reshape(batch, slots, -1).swapaxes(1, 2)
        y = jnp.matmul(turned, v, precision=HIGHEST)
        return jnp.einsum("bhghd->bhgd", y.reshape(batch, kv_heads, group, kv_heads, -1))

    if seen is None:
        return mean(v)
    there = seen[..., None]  # a copy without what is empty costs as much as the rest: only then
    return jax.lax.cond(seen.all(), mean, lambda v: mean(jnp.where(there, v, 0.0)), v)


def _mean_in_steps(weights: Array, v: Array, seen: Array) -> Array:
    """Means of v [B, K, N, Dk] by weights [B, K, N, Hk, G], a few slots at a time."""
    slots, dim = v.shape[1], v.shape[-1]
    step = next(n for n in range(9, 0, -1) if slots % n == 0)

    def add(total: Array, start: Array) -> tuple[Array, None]:
        part = lambda x: jax.lax.dynamic_slice_in_dim(x, start, step, 1)
        w, x = part(weights), jnp.where(part(seen)[:, :, None, None], part(v), 0.0)
        x = x.reshape(*w.shape[:-1], 1, -1) * w[..., None]
        for i in range(step):
            total += x[:, i]
        return total, None

    first = jnp.zeros((*weights[:, 0].shape, dim // weights.shape[3]))
    return jax.lax.scan(add, first, jnp.arange(0, slots, step))[0]


def _few(q, keys: Keys, gaps, rates, heads, kv_heads, sinks, window) -> Array:
    """One frame of a few queries, each over all tokens of the past: one product for all heads,
    with zeros between them. It does ``kv_heads`` times the arithmetic and never transposes the
    window, which costs more."""
    batch, _, tokens, dim = q.shape
    head, group, dtype = dim // heads, heads // kv_heads, q.dtype
    alive = (gaps >= 0)[..., None, None]

    def prepare(x: Array, scale: Array | None) -> Array:
        x = dequantise(x, scale, kv_heads)[:, :, :tokens].astype(jnp.float32)
        return jnp.where(alive, x, 0.0)  # [B, K, N, Dk]

    def rows(x: Array) -> Array:  # [B, K, N, ...] -> [B, K N, the rest]
        return x.reshape(batch, gaps.shape[1] * tokens, -1)

    k, v = prepare(keys.k, keys.k_scale), prepare(keys.v, keys.v_scale)
    split = k.reshape(*k.shape[:3], kv_heads, 2, head // 2)
    halves = split[..., 0, :], split[..., 1, :]
    if rates is not None:  # the query stays, the keys lie behind it
        most = sinks + window + 1
        cos, sin = (a[:, :, None, None] for a in _places(-gaps, -most, most, rates))
        halves = halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin
    q = q.astype(jnp.float32).reshape(batch, tokens, kv_heads, group, 2, head // 2)
    sparse = jnp.einsum("bnhgcd,hj->cbhdjgn", q, jnp.eye(kv_heads))  # zero but where h = j
    sparse = sparse.reshape(2, batch, kv_heads * (head // 2), -1)
    parts = [
        jnp.matmul(rows(x), z, precision=HIGHEST) for x, z in zip(halves, sparse, strict=False)
    ]
    logits = (parts[0] + parts[1]) * head**-0.5  # [B, K N, Hk G N]
    seen = jnp.repeat(gaps >= 0, tokens, axis=1)[..., None]
    weights = _softmax(jnp.where(seen, logits, -jnp.inf), (1,))
    y = jnp.matmul(weights.swapaxes(1, 2), rows(v), precision=HIGHEST)
    y = y.reshape(batch, kv_heads, group, tokens, kv_heads, head)
    y = jnp.einsum("bhgnhd->bnhgd", y)
    return y.reshape(batch, 1, tokens, dim).astype(dtype)


def _dense(q, keys: Keys, gaps, rates, heads, kv_heads, over: str, sinks, window) -> Array:
    """All scores at once, heads in front of the products (faster on a CPU than behind)."""
    batch, steps, tokens, dim = q.shape
    head, group = dim // heads, heads // kv_heads
    alive = (gaps >= 0).any(1)[..., None, None]  # what no query sees may hold NaN

    def prepare(x: Array, scale: Array | None) -> Array:
        x = dequantise(x, scale, kv_heads)[:, :, :tokens]
        x = jnp.where(alive, x, jnp.zeros((), x.dtype))
        return x.reshape(*x.shape[:3], kv_heads, head)  # [B, K, N, Hk, Dh]

    def columns(x: Array) -> Array:
        if over == "position":
            return x.transpose(0, 2, 3, 1, 4)  # [B, N, Hk, K, Dh]
        return x.transpose(0, 3, 1, 2, 4).reshape(batch, kv_heads, -1, head)

    def rows(x: Array) -> Array:  # [B, T, N, Hk, G, Dh]
        if over == "position":
            return x.transpose(0, 2, 3, 1, 4, 5).reshape(batch, tokens, kv_heads, -1, head)
        return x.transpose(0, 3, 1, 4, 2, 5).reshape(batch, kv_heads, -1, head)

    def turned(x: Array, place: Array) -> Array:
        if rates is None:
            return x
        most = sinks + window + steps
        lone = tuple(range(2, x.ndim - 1))
        cos, sin = (jnp.expand_dims(a, lone) for a in _places(place, -most, most, rates))
        return rotate_halves(x, cos, sin)

    def score(x: Array, k: Array) -> Array:
        logits = jnp.matmul(
            rows(x),
            columns(k).swapaxes(-1, -2),
            preferred_element_type=jnp.float32,
            precision=HIGHEST if x.dtype == jnp.float32 else None,
        )
        return logits.reshape(*shape, k.shape[1], -1)

    shape = (batch, tokens, kv_heads, steps, group, 1)
    if over == "frame":
        shape = (batch, 1, kv_heads, steps, group, tokens)
    q = q.reshape(batch, steps, tokens, kv_heads, group, head)
    k, v = prepare(keys.k, keys.k_scale), prepare(keys.v, keys.v_scale)
    if k.dtype != q.dtype:
        k = k.astype(jnp.float32)
    start = keys.now[:, :1]
    if steps == 1:  # the query stays, the keys lie behind it
        logits = score(q, turned(k, -gaps[:, 0]))
    else:
        # In the window only the distance matters; sinks stand still while the query's place in
        # the cache stops growing, so they are scored against a query of their own.
        place = jnp.where(keys.pos < 0, 0, keys.pos - start)
        logits = score(turned(q, keys.now - start), turned(k, place))
        if sinks and rates is not None:
            slots = keys.pos.shape[1] - steps
            pick = np.r_[:sinks, slots : slots + min(sinks, steps)]
            place = jnp.minimum(keys.now, sinks + window - 1)
            own = score(turned(q, place), turned(k[:, pick], keys.pos[:, pick]))
            sink = (keys.pos[:, pick] < sinks).reshape(batch, 1, 1, 1, 1, 1, -1, 1)
            own = jnp.where(sink, own, logits[..., pick, :])
            logits = logits.at[..., pick, :].set(own)
    seen = (gaps >= 0)[:, None, None, :, None, None, :, None]
    weights = _softmax(jnp.where(seen, logits * head**-0.5, -jnp.inf), (-2, -1))
    weights = weights.reshape(*rows(q).shape[:-1], -1)
    y = jnp.matmul(
        weights if v.dtype == jnp.float32 else weights.astype(q.dtype),
        columns(v),
        preferred_element_type=jnp.float32,
        precision=HIGHEST if v.dtype == jnp.float32 else None,
    )
    if over == "position":
        y = y.reshape(batch, tokens, kv_heads, steps, group, head).transpose(0, 3, 1, 2, 4, 5)
    else:
        y = y.reshape(batch, kv_heads, steps, group, tokens, head).transpose(0, 2, 4, 1, 3, 5)
    return y.reshape(batch, steps, tokens, dim).astype(q.dtype)


def _softmax(logits: Array, axes: tuple[int, ...]) -> Array:
    """Softmax that gives zeros, not NaN, where there is nothing to choose from."""
    peak = jax.lax.stop_gradient(jnp.maximum(logits.max(axes, keepdims=True), -1e30))
    weights = jnp.exp(logits - peak)
    return weights / jnp.maximum(weights.sum(axes, keepdims=True), 1e-30)

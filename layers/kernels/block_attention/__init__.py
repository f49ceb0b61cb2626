"""Block-gather attention: every group of queries reads a static number of pages of a key store.

The sparse primitive under NSA, ReKV, paged retrieval and kNN memories: somebody chooses pages
(top-k of whatever score), this reads them and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ...ranks import to_rank
from ..dispatch import Backend, KernelError, Op
from . import pallas_generic, pallas_tpu, reference

__all__ = ["OP", "block_attention", "merge"]

Array = jax.Array


def _with_gradient(run):
    """The gradient of a kernel is that of the reference, which gathers its pages again: a kernel
    would have to scatter-add into pages, which XLA does as well."""

    def backend(*arrays, split, **options):
        return _call(run, tuple(sorted(options.items())), split, *arrays)

    return backend


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _call(run, options, split, *arrays):
    plain, ways = dict(options), split.ways("h")
    own = {**plain, **{name: plain[name] // ways for name in ("heads", "kv_heads")}}
    lists = "b.h." if arrays[3].shape[2] > 1 else "b..."
    inputs = ("b.h", "b.h", "b.h", lists, "b.", "b.")
    kernel = functools.partial(run, **own)
    whole = functools.partial(reference.block_attention, **plain)
    return split.run(kernel, whole, inputs, ("b.h", "b.h"))(*arrays)


def _forward(run, options, split, *arrays):
    return _call(run, options, split, *arrays), arrays


def _backward(run, options, split, arrays, cotangent):
    del run, split
    plain = functools.partial(reference.block_attention, **dict(options))
    _, pull = jax.vjp(lambda q, k, v: plain(q, k, v, *arrays[3:]), *arrays[:3])
    return *pull(cotangent), None, None, None


_call.defvjp(_forward, _backward)


def _parts(q, k, *_, heads, kv_heads, **__):
    """Key heads are cut where whole lanes of them end."""
    del heads
    width = k.shape[-1] // kv_heads
    return {"b": q.shape[0], "h": kv_heads if width >= 128 else max(1, kv_heads * width // 128)}


def _backends():
    generic, tpu = pallas_generic.block_attention, pallas_tpu.block_attention
    emulate = functools.partial(generic, interpret=True)
    emulate_tpu = functools.partial(tpu, interpret=True)
    fits, fits_tpu = pallas_generic.unable, pallas_tpu.unable
    return (
        Backend("reference", reference.block_attention),
        Backend("pallas", _with_gradient(generic), ("cuda",), ("cuda",), fits, _parts),
        Backend("pallas_tpu", _with_gradient(tpu), ("tpu",), ("tpu",), fits_tpu, _parts),
        Backend("interpret", _with_gradient(emulate), unable=fits, parts=_parts),
        Backend("interpret_tpu", _with_gradient(emulate_tpu), unable=fits_tpu, parts=_parts),
    )


OP = Op("block_attention", *_backends())


def block_attention(
    q: Array,
    k: Array,
    v: Array,
    pages: Array,
    *,
    page: int,
    heads: int = 1,
    kv_heads: int | None = None,
    length: Array | None = None,
    key_pos: Array | None = None,
    query_pos: Array | None = None,
    window: int | None = None,
    scale: float | None = None,
    with_lse: bool = False,
    implementation: str | None = None,
    blocks: Mapping[str, int] | None = None,
) -> Array | tuple[Array, Array]:
    """Attends to selected pages of ``page`` consecutive keys; one softmax over all of them.

    Heads lie side by side in the last axis; query head h reads key head h // (heads / kv_heads).

    Args:
      q: [B, T, heads * Dk] float32, bfloat16 or float16.
      k, v: [B, S, kv_heads * Dk], [B, S, kv_heads * Dv]; the last page may be partial.
      pages: page numbers, int: [B, K], the same for all queries; [B, G, K], where T / G consecutive
        queries share a list; or [B, G, kv_heads, K], a list per key head. -1 selects nothing; a
        page that is selected twice counts once.
      length: [B] int, keys that exist (the first ones); None for all of them.
      key_pos: [B, S] int32, the time of each key, negative where there is none (then it may hold
        NaN); None for its place in the store.
      query_pos: [B, T] int32, the time of each query: it sees keys of its time and earlier.
        None: every key that exists.
      window: only the last ``window`` times, the query's own included; wants ``query_pos``.
      scale: of the scores; None for Dk ** -0.5.
      with_lse: also return the log of the softmax's denominator, for :func:`merge`.
      implementation: a backend's name; None takes the best of the platform.
      blocks: block sizes in place of those of ``blocks.TABLE``: ``keys`` (of the pages that one
        grid step of the TPU kernel brings).

    Returns:
      values [B, T, heads * Dv] in q's type, zeros where a query sees no key; with ``with_lse`` also
      lse [B, T, heads] fp32 (about -1e30 without keys). The gradient is that of the reference.

    Raises:
      KernelError: shapes that do not fit together, a page number out of range (inside ``jit``,
        where numbers are not known, such a page selects nothing), or an implementation that
        cannot run.

    Source: the selection branch of Yuan et al., "Native Sparse Attention" (arXiv 2502.11089).
    """
    kv_heads = heads if kv_heads is None else kv_heads
    pages = _check(q, k, v, pages, heads, kv_heads, page)
    if window is not None and (query_pos is None or window < 1):
        raise KernelError(
            f"block_attention: window {window} must be >= 1 and wants query_pos, the time of each "
            "query"
        )
    batch, slots = k.shape[:2]
    place = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (batch, slots))
    key_pos = place if key_pos is None else key_pos.astype(jnp.int32)
    if length is not None:
        key_pos = jnp.where(place < length[:, None], key_pos, -1)
    if query_pos is None:
        query_pos = jnp.full(q.shape[:2], np.iinfo(np.int32).max)
    y, lse = OP(
        q,
        k,
        v,
        _once(pages, -(-slots // page)),
        key_pos,
        query_pos.astype(jnp.int32),
        implementation=implementation,
        heads=heads,
        kv_heads=kv_heads,
        page=page,
        window=window,
        scale=(q.shape[-1] // heads) ** -0.5 if scale is None else float(scale),
        blocks=tuple(sorted(blocks.items())) if blocks else None,
    )
    return (y, lse) if with_lse else y


def merge(parts: list[tuple[Array, Array]]) -> Array:
    """One softmax out of several over different keys: (values [..., H * D], lse [..., H]) each.

    Returns values [..., H * D] in the first part's type.
    """
    lse = jnp.stack([part[1] for part in parts])
    weights = jax.nn.softmax(lse, axis=0)
    total = jnp.zeros((), jnp.float32)
    for (y, _), w in zip(parts, weights, strict=True):
        heads = y.reshape(*w.shape, -1).astype(jnp.float32)
        total = total + (heads * w[..., None]).reshape(y.shape)
    return total.astype(parts[0][0].dtype)


def _once(pages: Array, count: int) -> Array:
    """-1 for a page that is out of range or was there before."""
    pages = jnp.where((pages >= 0) & (pages < count), pages.astype(jnp.int32), -1)
    size = pages.shape[-1]
    if size <= 32:
        before = np.tril(np.ones((size, size), bool), -1)
        same = pages[..., :, None] == pages[..., None, :]
        again = (same & to_rank(jnp.asarray(before), same)).any(axis=-1)
    else:
        pages = jnp.sort(pages, axis=-1)
        again = jnp.pad(pages[..., 1:] == pages[..., :-1], [(0, 0)] * 3 + [(1, 0)])
    return jnp.where(again, -1, pages)


def _check(q, k, v, pages, heads: int, kv_heads: int, page: int) -> Array:
    """The page lists as [B, G, 1 or kv_heads, K]."""

    def wrong(what: str, want: str):
        raise KernelError(f"block_attention: {what}; {want}")

    if kv_heads < 1 or heads % kv_heads:
        wrong(f"heads {heads} is no multiple of kv_heads {kv_heads}", "equal groups share one")
    if q.ndim != 3 or q.shape[-1] % heads:
        wrong(f"q has shape {q.shape}", f"it must be [B, T, {heads} heads x width]")
    want = (q.shape[0], k.shape[1], q.shape[-1] // heads * kv_heads)
    if k.shape != want:
        wrong(f"k has shape {k.shape}", f"q {q.shape} and kv_heads {kv_heads} want {want}")
    if v.shape[:2] != k.shape[:2] or v.shape[-1] % kv_heads:
        wrong(f"v has shape {v.shape}", f"k's {k.shape[:2]} and {kv_heads} heads were expected")
    if page < 1:
        wrong(f"page {page}", "a page holds at least one key")
    if not jnp.issubdtype(pages.dtype, jnp.integer):
        wrong(f"pages is {pages.dtype}", "page numbers are integers")
    if not isinstance(pages, Tracer):
        count = -(-k.shape[1] // page)
        values = np.asarray(pages)
        bad = values[(values < -1) | (values >= count)]
        if bad.size:
            wrong(
                f"pages holds {bad[0]}, out of range",
                f"{k.shape[1]} keys make pages 0 .. {count - 1} of {page}, -1 selects none",
            )
    if pages.ndim == 2:
        pages = pages[:, None, None]
    elif pages.ndim == 3:
        pages = pages[:, :, None]
    fits = pages.ndim == 4 and pages.shape[0] == q.shape[0] and pages.shape[2] in (1, kv_heads)
    if not fits or not pages.shape[1] or q.shape[1] % pages.shape[1] or not pages.shape[3]:
        wrong(
            f"pages has shape {pages.shape}",
            f"[{q.shape[0]}, G, 1 or {kv_heads}, K] with G a divisor of {q.shape[1]} queries "
            "was expected",
        )
    return pages

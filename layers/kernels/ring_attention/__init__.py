"""Sink and window attention over a ring of un-rotated keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...positions import rotate_halves
from ...stacked import Layer
from ..dispatch import Backend, KernelError, Op
from . import block_ring, launch, reference
from .block_ring import BlockRing, init_block_ring
from .reference import Keys
from .ring import (
    BITS,
    Ring,
    dequantise,
    groups_of,
    init_ring,
    padded,
    quantise,
    shape_of,
    write,
)

__all__ = [
    "BlockRing",
    "Ring",
    "dequantise",
    "init_block_ring",
    "init_ring",
    "quantise",
    "read",
    "ring_attention",
]

Array = jax.Array

read = Op(
    "ring_attention",
    Backend("reference", reference.read),
    Backend(
        "pallas",
        launch.compiled,
        ("tpu", "cuda"),
        ("tpu", "cuda"),
        launch.unable_compiled,
        launch.parts,
    ),
    Backend("interpret", launch.interpret, unable=launch.unable, parts=launch.parts),
    Backend("interpret_tpu", launch.interpret_tpu, unable=launch.unable, parts=launch.parts),
)


def ring_attention(
    ring: Ring | BlockRing,
    q: Array,
    k: Array,
    v: Array,
    *,
    heads: int,
    sinks: int,
    window: int,
    fresh: Array | None = None,
    over: str = "position",
    rope_base: float | None = 10_000.0,
    kv_heads: int | None = None,
    coords: Array | None = None,
    rope_pairs: Sequence[int] | None = None,
    segment: Array | None = None,
    select: Array | None = None,
    implementation: str | None = None,
    blocks: Mapping[str, int] | None = None,
) -> tuple[Any, Array]:
    """Attends T new frames to the ring and to each other, and writes them into the ring.

    T = 1 is the decode form: the frame is written first and the ring is all that is read. With a
    larger T the new frames are read behind the ring, the window moving along.

    Args:
      ring: what the streams remember; streams may stand at different times. A :class:`BlockRing`
        is read frame by frame and has no segments. Keys, values and scales may be a
        :class:`~streamzoo.layers.stacked.Layer` each, and come back as such.
      q: [B, T, N, heads x Dh] un-rotated.
      k, v: [B, T, N, kv_heads x Dh] un-rotated; heads share keys in groups of heads / kv_heads.
      fresh: [B] int32, how many of the T frames exist (they come first); None means all. What the
        others hold (it may be NaN) is never read.
      over: ``position``: token n sees its own past; ``frame``: every token of past frames.
      rope_base: base of the rotary frequencies, None for no positions. Positions over time are
        assigned when a key is read: by order in the cache, so a sink stands right before the
        window however long ago it came.
      kv_heads: heads of k and v; default ``heads``.
      coords: [N, A] where the tokens stand on A further axes, in any unit (axial RoPE, 2-D or
        3-D with time); a token's place in its frame never changes, so this is in the stored keys.
      rope_pairs: pairs of a head that turn with (time, axis 1 .. A); default: even shares, the
        rest to time. ``(0, 16, 16)`` is purely spatial; ``(8,)`` without coords turns the first
        8 pairs with time and leaves the others (partial rotary).
      segment: [B, T] int32, what each new frame belongs to (a shot, a speaker); needs a ring
        with ``segments=True``. A query reads keys of its own segment only.
      select: [B, T, M] int32, instead: the segments that each query reads.
      implementation: ``reference``, ``pallas`` or ``interpret``; None takes the best one that can
        run, per platform.
      blocks: block sizes in place of those of ``blocks.TABLE``.

    Returns:
      the ring, and the attention's values [B, T, N, heads x Dh] (meaningless for t >= fresh).

    Raises:
      KernelError: shapes that do not belong together, or an implementation that cannot take them.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if not isinstance(ring, BlockRing):
        _check(ring, q, k, v, heads, kv_heads, sinks, window, over, segment, select)
    elif segment is not None or select is not None:
        raise KernelError("ring_attention: a ring in blocks has no segments; use init_ring")
    else:
        block_ring.check(ring, k, sinks, window)
    batch, steps = q.shape[:2]
    half = q.shape[-1] // heads // 2
    pairs = None
    if coords is not None and rope_base is not None:
        angle, pairs = _axial(coords, half, rope_base, rope_pairs)
        q, k = _turn(q, angle, heads), _turn(k, angle, kv_heads)
    elif rope_pairs is not None:
        pairs = _partial(rope_pairs, half)
    if fresh is None:
        fresh = jnp.full((batch,), steps, jnp.int32)

    def read_frames(q: Array, keys: Keys) -> Array:
        return read(
            q,
            keys,
            heads=heads,
            kv_heads=kv_heads,
            over=over,
            sinks=sinks,
            window=window,
            rope_base=rope_base,
            pairs=pairs,
            blocks=None if blocks is None else tuple(sorted(blocks.items())),
            implementation=implementation,
        )

    if isinstance(ring, BlockRing):
        # no kernel reads its codes, and XLA makes the keys where it reads them
        implementation = implementation or "reference"
        return block_ring.attend(ring, q, k, v, fresh, read_frames)
    now = ring.seen[:, None] + jnp.arange(steps, dtype=jnp.int32)[None]  # [B, T]
    pos = jnp.where(now < (ring.seen + fresh)[:, None], now, -1)
    new = _as_ring(ring, k, v, pos, segment, kv_heads)
    after = write(ring, new, fresh, sinks, window)
    if segment is not None and select is None:
        select = segment[..., None]

    def frames(name: str) -> Any:
        old, fresh_ones = getattr(ring, name), getattr(new, name)
        if steps == 1 or old is None:  # the current frame is in the ring: read it there
            last = getattr(after, name)
            return last.stack if isinstance(last, Layer) else last
        old = old.read() if isinstance(old, Layer) else old
        return jnp.concatenate([old, fresh_ones.astype(old.dtype)], axis=1)

    kept = {name: frames(name) for name in ("k", "v", "k_scale", "v_scale", "pos", "segment")}
    layer = ring.k.at if steps == 1 and isinstance(ring.k, Layer) else None
    keys = Keys(**kept, now=now, select=select, layer=layer)
    return after, read_frames(q, keys)


def _as_ring(
    ring: Ring, k: Array, v: Array, pos: Array, segment: Array | None, kv_heads: int
) -> Ring:
    """The new frames as a ring of T slots (whose ``seen`` says nothing)."""
    k_scale = v_scale = None
    kept = shape_of(ring.k)
    fill = ((0, 0), (0, 0), (0, kept[2] - k.shape[2]), (0, 0))
    k, v = jnp.pad(k, fill), jnp.pad(v, fill)
    if ring.k_scale is not None:
        bits = 8 * kept[-1] // k.shape[-1]
        (k, k_scale), (v, v_scale) = quantise(k, kv_heads, bits), quantise(v, kv_heads, bits)
    if ring.segment is None:
        segment = None
    return Ring(k, v, pos, pos[:, 0], k_scale, v_scale, segment)


def _axial(coords: Array, half: int, base: float, pairs: Sequence[int] | None):
    """Angles [N, half] of the axes but time, and how many pairs time turns."""
    axes = coords.shape[-1]
    if pairs is None:
        share = half // (axes + 1)
        pairs = (half - axes * share,) + (share,) * axes
    if len(pairs) != axes + 1 or sum(pairs) != half:
        raise KernelError(
            f"ring_attention: rope_pairs={tuple(pairs)} must be {axes + 1} numbers (time and "
            f"{axes} axes of coords) that add up to {half}, half of the head width"
        )
    parts = [jnp.zeros((coords.shape[0], pairs[0]), jnp.float32)]
    for axis, n in enumerate(pairs[1:]):
        rates = base ** (-np.arange(n, dtype=np.float32) / max(1, n))
        parts.append(coords[:, axis, None].astype(jnp.float32) * rates)
    return jnp.concatenate(parts, axis=-1), pairs[0]


def _partial(pairs: Sequence[int], half: int) -> int:
    if len(pairs) != 1 or not 0 <= pairs[0] <= half:
        raise KernelError(
            f"ring_attention: rope_pairs={tuple(pairs)} without coords must be one number of pairs "
            f"from 0 to {half}, half of the head width"
        )
    return pairs[0]


def _turn(x: Array, angle: Array, heads: int) -> Array:
    split = x.reshape(*x.shape[:-1], heads, -1)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    return rotate_halves(split, cos, sin).astype(x.dtype).reshape(x.shape)


def _check(ring, q, k, v, heads, kv_heads, sinks, window, over, segment, select) -> None:
    def fail(what: str) -> None:
        raise KernelError(f"ring_attention: {what}")

    if over not in ("position", "frame"):
        fail(f"over={over!r} is neither 'position' nor 'frame'")
    if q.ndim != 4 or q.shape[-1] % heads or q.shape[-1] // heads % 2:
        fail(f"q {q.shape} must be [B, T, N, D] with D = heads ({heads}) x an even head width")
    if kv_heads < 1 or heads % kv_heads:
        fail(f"kv_heads={kv_heads} must divide heads={heads}")
    want = (*q.shape[:3], q.shape[-1] // heads * kv_heads)
    for name, x in (("k", k), ("v", v)):
        if x.shape != want:
            fail(f"{name} {x.shape} must be {want} for q {q.shape}, kv_heads={kv_heads}")
    batch, _, tokens, dim = want
    if ring.k_scale is not None:
        groups, width = shape_of(ring.k_scale)[-2], shape_of(ring.k)[-1]
        bits = next((b for b in BITS if b * dim == 8 * width), 0)
        if not bits or groups != groups_of(dim, kv_heads, bits):
            fail(
                f"a quantised ring of width {width} with {groups} scales is not one of "
                f"kv_heads={kv_heads} and width {dim}; make it with init_ring(bits=, kv_heads=)"
            )
        dim = width
    if shape_of(ring.k) != (shape := (batch, sinks + window, padded(tokens), dim)):
        fail(
            f"ring {shape_of(ring.k)} must be {shape} for q {q.shape}, "
            f"kv_heads={kv_heads}, sinks={sinks}, window={window}; make it with init_ring"
        )
    if (segment is not None or select is not None) and ring.segment is None:
        fail("segment= or select= needs a ring made with init_ring(segments=True)")
    if ring.segment is not None and segment is None:
        fail("a ring with segments needs segment= [B, T] int32")

"""Cases of ring attention's read: random ones for every backend, and the shapes the zoo uses."""

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.layers.kernels.ring_attention import quantise
from streamzoo.layers.kernels.ring_attention.reference import Keys
from streamzoo.layers.kernels.ring_attention.ring import padded

# B, T, N, heads, kv_heads, head, sinks, window, over, rope base, pairs, bits, segments
SHAPES = [
    (2, 1, 20, 2, 2, 8, 2, 5, "position", 100.0, None, None, False),
    (2, 1, 20, 4, 2, 8, 0, 7, "position", 1e4, 3, 8, True),
    (1, 1, 17, 4, 4, 16, 1, 1, "position", None, None, 4, False),
    (2, 3, 5, 4, 1, 8, 3, 2, "position", 100.0, None, None, True),
    (1, 257, 2, 2, 2, 8, 2, 3, "position", 100.0, None, None, False),
    (2, 1, 37, 2, 2, 8, 2, 3, "frame", 100.0, None, None, False),
    (2, 1, 19, 4, 2, 8, 1, 4, "frame", 1e4, 2, 8, True),
    (1, 1, 16, 2, 1, 16, 0, 1, "frame", None, None, 4, False),
    (2, 3, 7, 2, 2, 8, 2, 2, "frame", 100.0, None, None, False),
    (2, 2, 9, 4, 2, 8, 0, 13, "frame", 1e4, None, 4, True),
]
TIMES = (0, 1, 3, 6, 40, 2**24 - 2, 2**24 + 4321, 2**30 + 7)


def random_case(seed: int, dtype=jnp.float32) -> tuple[tuple[jax.Array, Keys], dict]:
    """((q, keys), options): streams at unequal times, empty ones, NaN where nothing is valid."""
    rng = np.random.default_rng(seed)
    batch, steps, tokens, heads, kv_heads, head, sinks, window, over, base, pairs, bits, segs = (
        SHAPES[seed % len(SHAPES)]
    )
    slots = sinks + window
    frames = slots + (steps if steps > 1 else 0)
    seen = rng.choice(TIMES, batch)
    now = seen[:, None] + np.arange(steps)
    pos = np.full((batch, frames), -1)
    for b in range(batch):
        last = seen[b] + (steps == 1)  # of one frame, the ring holds it already
        for p in [*range(min(sinks, last)), *range(max(sinks, last - window), last)]:
            pos[b, p if p < sinks else sinks + (p - sinks) % window] = p
        if steps > 1:
            fresh = rng.integers(0, steps + 1)
            pos[b, slots:] = np.where(np.arange(steps) < fresh, now[b], -1)
    if seed % 7 == 3:
        pos[0] = -1  # nothing valid at all
    k, v = rng.normal(size=(2, batch, frames, padded(tokens), kv_heads * head))
    q = rng.normal(size=(batch, steps, tokens, heads * head))
    k, v, scales = jnp.asarray(k, dtype), jnp.asarray(v, dtype), (None, None)
    hole = jnp.asarray(pos < 0)[..., None, None]
    if bits:
        (k, k_scale), (v, v_scale) = quantise(k, kv_heads, bits), quantise(v, kv_heads, bits)
        scales = jnp.where(hole, jnp.nan, k_scale), jnp.where(hole, jnp.nan, v_scale)
    else:
        k, v = (jnp.where(hole, jnp.nan, x).astype(dtype) for x in (k, v))
    segment = select = None
    if segs:
        segment = jnp.asarray(rng.integers(0, 3, (batch, frames)), jnp.int32)
        select = jnp.asarray(rng.integers(0, 3, (batch, steps, 2)), jnp.int32)
    ints = jnp.asarray(pos, jnp.int32), jnp.asarray(now, jnp.int32)
    keys = Keys(k, v, *scales, *ints, segment, select)
    options = {"heads": heads, "kv_heads": kv_heads, "over": over, "sinks": sinks}
    options |= {"window": window, "rope_base": base, "pairs": pairs}
    return (jnp.asarray(q, dtype), keys), options


def _zoo(batch, steps, tokens, heads, kv_heads, head, sinks, window, over, bits=None):
    shape = jax.ShapeDtypeStruct
    frames = sinks + window + (steps if steps > 1 else 0)
    wide = kv_heads * head
    kind, scale = jnp.bfloat16, None
    if bits:
        kind, wide, groups = jnp.int8, wide * bits // 8, kv_heads * 8 // bits
        scale = shape((batch, frames, groups, padded(tokens)), jnp.float32)
    k = shape((batch, frames, padded(tokens), wide), kind)
    pos, now = shape((batch, frames), jnp.int32), shape((batch, steps), jnp.int32)
    q = shape((batch, steps, tokens, heads * head), jnp.bfloat16)
    options = {"heads": heads, "kv_heads": kv_heads, "over": over, "sinks": sinks}
    options |= {"window": window, "rope_base": 1e4, "pairs": None}
    return (q, Keys(k, k, scale, scale, pos, now, None, None)), options


def zoo_shapes() -> list[tuple[str, tuple, dict]]:
    """(name, arrays as shapes, options): what the models of the zoo read, in bf16."""
    cases = {
        "vit-s position": _zoo(1, 1, 197, 6, 6, 64, 2, 16, "position"),
        "vit-b position": _zoo(8, 1, 196, 12, 12, 64, 2, 16, "position"),
        "vit-b position, window 1024": _zoo(1, 1, 196, 12, 12, 64, 0, 1024, "position"),
        "vit-b position, clip": _zoo(8, 16, 196, 12, 12, 64, 2, 16, "position"),
        "vit-s frame": _zoo(1, 1, 197, 6, 6, 64, 2, 16, "frame"),
        "vit-b frame": _zoo(8, 1, 196, 12, 12, 64, 2, 16, "frame"),
        "vit-b frame, window 256": _zoo(8, 1, 197, 12, 12, 64, 2, 256, "frame"),
        "vit-b frame, clip": _zoo(1, 16, 197, 12, 12, 64, 2, 16, "frame"),
        "grouped heads of 128": _zoo(8, 1, 196, 16, 2, 128, 2, 16, "frame"),
        "grouped heads of 128, position": _zoo(8, 1, 196, 16, 2, 128, 2, 64, "position"),
        "vit-b position, int8": _zoo(8, 1, 196, 12, 12, 64, 2, 64, "position", 8),
        "vit-b frame, int8": _zoo(8, 1, 196, 12, 12, 64, 2, 64, "frame", 8),
        "vit-b position, int4": _zoo(8, 1, 196, 12, 12, 64, 2, 64, "position", 4),
        "vit-b frame, int4": _zoo(8, 1, 196, 12, 12, 64, 2, 64, "frame", 4),
    }
    return [(name, *case) for name, case in cases.items()]

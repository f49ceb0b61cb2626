"""Ring attention against a brute-force float64 form written from the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.kernels.ring_attention import init_ring, ring_attention


def rope(x, position, base):
    half = x.shape[-1] // 2
    angle = position * base ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
    )


def brute_force(q, k, v, heads, sinks, window, base, over):
    """Every frame for itself: the cache as a list of frames, positions by order in the list."""
    steps, tokens, dim = q.shape
    head = dim // heads
    out = np.zeros_like(q)
    for t in range(steps):
        cache = [p for p in range(t + 1) if p < sinks or p > t - window]
        for h in range(heads):
            part = slice(h * head, (h + 1) * head)
            for n in range(tokens):
                query = q[t, n, part]
                if base:
                    query = rope(query, len(cache) - 1, base)
                logits, values = [], []
                for place, p in enumerate(cache):
                    for m in [n] if over == "position" else range(tokens):
                        key = rope(k[p, m, part], place, base) if base else k[p, m, part]
                        logits.append(query @ key / np.sqrt(head))
                        values.append(v[p, m, part])
                weights = np.exp(np.array(logits) - max(logits))
                out[t, n, part] = (weights / weights.sum()) @ np.array(values)
    return out


@pytest.mark.parametrize("over", ["position", "frame"])
@pytest.mark.parametrize("base", [pytest.param(None, marks=pytest.mark.slow), 100.0])
@pytest.mark.parametrize(
    ("sinks", "window"),
    [(0, 4), (3, 2), *(pytest.param(*n, marks=pytest.mark.slow) for n in ((1, 20), (12, 3)))],
)
@pytest.mark.parametrize("chunks", [[3, 1, 5, 2], [1] * 11])
def test_equals_brute_force(over, base, sinks, window, chunks):
    steps, tokens, dim, heads = 11, 3, 8, 2
    rng = np.random.default_rng(sinks * 10 + window)
    q, k, v = rng.normal(size=(3, 1, steps, tokens, dim))
    want = brute_force(q[0], k[0], v[0], heads, sinks, window, base, over)
    ring, got, at = init_ring(1, sinks, window, tokens, dim, jnp.float32), [], 0
    for n in chunks:
        piece = [jnp.asarray(a[:, at : at + n], jnp.float32) for a in (q, k, v)]
        ring, y = ring_attention(
            ring, *piece, heads=heads, sinks=sinks, window=window, over=over, rope_base=base
        )
        got.append(np.asarray(y[0]))
        at += n
    np.testing.assert_allclose(np.concatenate(got), want, atol=1e-5)
    assert int(ring.seen[0]) == steps


def test_nothing_evicted_is_full_causal_attention():
    """While everything fits, it is a masked softmax over the whole history."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(3, 2, 9, 4, 16)))
    ring = init_ring(2, 0, 9, 4, 16, jnp.float32)
    _, got = ring_attention(ring, q, k, v, heads=2, sinks=0, window=9, rope_base=None)
    fold = lambda a: a.swapaxes(1, 2).reshape(8, 9, 2, 8)  # token positions to batch
    want = jax.nn.dot_product_attention(fold(q), fold(k), fold(v), is_causal=True)
    want = want.reshape(2, 4, 9, 16).swapaxes(1, 2)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_streams_at_different_times():
    """Each stream of a batch has its own count: a fresh one beside an old one."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(3, 2, 6, 2, 8)))
    run = lambda ring, *x: ring_attention(ring, *x, heads=1, sinks=1, window=3)
    empty = init_ring(2, 1, 3, 2, 8, jnp.float32)
    old, _ = run(empty, q, k, v)
    mixed = jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), old, empty)
    _, got = run(mixed, q[:, :2], k[:, :2], v[:, :2])
    _, first = run(old, q[:, :2], k[:, :2], v[:, :2])
    _, second = run(empty, q[:, :2], k[:, :2], v[:, :2])
    np.testing.assert_allclose(got[0], first[0], atol=1e-6)
    np.testing.assert_allclose(got[1], second[1], atol=1e-6)

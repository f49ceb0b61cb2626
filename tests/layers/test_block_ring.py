"""Keys per channel over blocks of frames, against a list of frames quantised by the definition."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.codec import kivi
from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.ring_attention import (
    BlockRing,
    init_block_ring,
    init_ring,
    ring_attention,
)

from .test_window import brute_force

GOLDEN = Path(__file__).parents[3] / "shared/goldens/compact/kv_kivi.npz"
SINKS, WINDOW, BLOCK, TOKENS, DIM = 2, 16, 8, 2, 32
RNG = np.random.default_rng(0)
SPREAD = 4 ** RNG.normal(size=DIM)  # channels of the keys that differ
Q, K, V = (RNG.normal(size=(1, 37, TOKENS, DIM)).astype(np.float32) for _ in range(3))
K = ((K + 3) * SPREAD / np.linalg.norm(3 * SPREAD) * 4).astype(np.float32)  # logits of a few


def rounded(x, bits, axis):
    """Nearest of 2^bits levels between the least and the most along ``axis``."""
    least, most = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    step = (most - least) / (2**bits - 1)
    return np.round((x - least) / step) * step + least


def attended(ring, chunks, q=Q, k=K, v=V):
    found, at = [], 0
    for n in chunks:
        piece = [jnp.asarray(a[:, at : at + n]) for a in (q, k, v)]
        ring, y = ring_attention(ring, *piece, heads=1, sinks=SINKS, window=WINDOW)
        found.append(np.asarray(y[0]))
        at += n
    return ring, np.concatenate(found)


def ring_of(bits, block=BLOCK):
    return init_block_ring(1, SINKS, WINDOW, TOKENS, DIM, jnp.float32, bits=bits, block=block)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "block"), [(2, 16), (4, 8), (8, 8)])
def test_equals_a_list_of_frames(bits, block):
    """At every frame: sinks exact, keys of full blocks per channel, later ones exact, values of
    every frame per token."""
    ring, got = attended(ring_of(bits, block), [1, 3, 12, 1, 20])
    assert isinstance(ring, BlockRing) and ring.bits == bits
    values = np.concatenate([V[0, :SINKS], rounded(V[0, SINKS:], bits, -1)])
    for t in range(len(got)):
        keys = K[0, : t + 1].copy()
        for start in range(SINKS, t + 2 - block, block):
            keys[start : start + block] = rounded(keys[start : start + block], bits, 0)
        want = brute_force(
            Q[0, : t + 1], keys, values[: t + 1], 1, SINKS, WINDOW, 10_000.0, "position"
        )[-1]
        np.testing.assert_allclose(got[t], want, atol=2e-4, err_msg=f"frame {t}")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_are_kivis(bits):
    """Frames of the reference's keys, written one by one, are read as it reads them."""
    if not GOLDEN.is_file():
        pytest.skip("the goldens of ../shared are not here")
    z = np.load(GOLDEN)
    k, v = (z[name].reshape(6, 64, 32).swapaxes(0, 1)[None] for name in "KV")  # heads as tokens
    ring = init_block_ring(1, 0, 64, 6, 32, jnp.float32, bits=bits, block=32)
    ring, _ = ring_attention(ring, *map(jnp.asarray, (k, k, v)), heads=1, sinks=0, window=64)
    keys = kivi.dequantise_keys(kivi.Packed(ring.k, ring.k_scale, ring.k_least), bits)
    values = kivi.dequantise_values(kivi.Packed(ring.v, ring.v_scale, ring.v_least), bits)
    np.testing.assert_allclose(keys[0], z[f"k_b{bits}_deq"].reshape(6, 64, 32), atol=1e-5)
    np.testing.assert_allclose(values[0], z[f"v_b{bits}_deq"].reshape(6, 64, 32), atol=1e-5)


@pytest.mark.slow
def test_keys_per_channel_lose_less_than_per_token():
    """Where channels differ, at equal bits; and the carry is smaller than in full precision."""
    _, exact = attended(init_ring(1, SINKS, WINDOW, TOKENS, DIM, jnp.float32), [37])
    error = {}
    for name, ring in {
        "channel": ring_of(4),
        "token": init_ring(1, SINKS, WINDOW, TOKENS, DIM, jnp.float32, bits=4),
    }.items():
        error[name] = np.abs(attended(ring, [37])[1] - exact).mean()
    assert 0 < error["channel"] < 0.7 * error["token"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(bits=3), "bits=3 is none of 8, 4, 2"),
        (dict(block=5), "block=5 must divide window=16"),
        (dict(block=4), "codes of 4 bits fill words of 32: blocks of 8, 16"),
        (dict(dim=40), "width 40 does not divide into groups of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given, words):
    sizes = dict(dim=DIM, bits=4, block=BLOCK) | given
    with pytest.raises(KernelError, match=words):
        init_block_ring(1, SINKS, WINDOW, TOKENS, sizes.pop("dim"), jnp.float32, **sizes)


def test_another_ring_is_refused():
    piece = [jnp.asarray(a[:, :1]) for a in (Q, K, V)]
    with pytest.raises(KernelError, match="must be .*make it with init_block_ring"):
        ring_attention(ring_of(4), *piece, heads=1, sinks=SINKS, window=8)
    segment = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(KernelError, match="in blocks has no segments"):
        ring_attention(ring_of(4), *piece, heads=1, sinks=SINKS, window=WINDOW, segment=segment)

"""Cases of gated_delta: random arrays for the suites, and the shapes that the models use."""

import jax
import jax.numpy as jnp
import numpy as np

# (B, T, H, Hk, dk, dv, chunk), few so that each compiles once: T = 1 with streams in the lanes
# and not, ragged chunks, grouped key heads, T = 257.
SHAPES = [
    (3, 1, 4, 2, 16, 24, 64),
    (130, 1, 2, 2, 8, 8, 64),
    (2, 37, 2, 2, 16, 8, 16),
    (1, 257, 2, 1, 8, 16, 64),
    (3, 6, 3, 3, 8, 12, 64),
]
BLOCKS = [None, {"rows": 2, "heads": 1}, {"rows": 2, "chunks": 2}, None, {"heads": 3}]


def arrays_of(seed, B, T, H, Hk, dk, dv, decay=1.0):
    """q, k (of unit length), v, g, beta, state in fp32."""
    rng = np.random.default_rng(seed)
    draw = lambda *s: rng.normal(size=s).astype(np.float32)
    q, k = draw(B, T, Hk, dk), draw(B, T, Hk, dk)
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True)) for x in (q, k))
    v = draw(B, T, H, dv)
    g = -decay * rng.gamma(1.0, 0.3, (B, T, H)).astype(np.float32)
    beta = rng.uniform(0, 1, (B, T, H)).astype(np.float32)
    return q, k, v, g, beta, draw(B, H, dk, dv)


def random_case(seed, dtype=np.float32):
    """(arrays (q, k, v, g, beta, state, reset), options)."""
    *shape, chunk = SHAPES[seed % len(SHAPES)]
    decay = (1.0, 0.0, 30.0, 1e3)[seed % 4]
    q, k, v, g, beta, state = arrays_of(seed, *shape, decay=decay)
    rng = np.random.default_rng(seed)
    reset = rng.uniform(size=q.shape[:2]) < 0.1
    if seed % 3 == 0:  # a stream that starts anew in a slot of which the state is broken
        reset[0, 0], state[0] = True, np.nan
    if seed % 3 == 1:  # negative eigenvalues
        beta = 2 * beta
    q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
    arrays = (q, k, v, *(jnp.asarray(x) for x in (g, beta, state, reset)))
    blocks = BLOCKS[seed % len(SHAPES)] if seed // len(SHAPES) % 2 else None
    return arrays, {"chunk": chunk, "blocks": blocks}


def zoo_shapes():
    """(name, arrays as ShapeDtypeStruct, options) of the models' calls."""

    def shapes(dtype, B, T, H, Hk, dk, dv):
        x = lambda h, d: jax.ShapeDtypeStruct((B, T, h, d), dtype)
        gate = jax.ShapeDtypeStruct((B, T, H), jnp.float32)
        state = jax.ShapeDtypeStruct((B, H, dk, dv), jnp.float32)
        return x(Hk, dk), x(Hk, dk), x(H, dv), gate, gate, state

    fp32, bf16 = jnp.float32, jnp.bfloat16
    return [
        ("vit_s_frame", shapes(fp32, 196, 1, 6, 6, 64, 64), {}),
        ("vit_b_frame_bf16", shapes(bf16, 8 * 197, 1, 12, 12, 64, 64), {}),
        ("qwen3_next_step", shapes(bf16, 64, 1, 32, 16, 128, 128), {}),
        ("vit_b_clip", shapes(fp32, 2 * 196, 16, 12, 12, 64, 64), {}),
        ("vit_s_long", shapes(fp32, 8, 257, 6, 6, 64, 64), {}),
        ("qwen3_next_clip", shapes(bf16, 4, 2048, 32, 16, 128, 128), {}),
    ]

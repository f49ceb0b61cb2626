"""Cases of linear_scan: random arrays for the suites, and the shapes that the models use."""

import jax
import jax.numpy as jnp
import numpy as np

# Few shapes and many draws, so that each compiles once: ragged rows and channels, T = 1 and 257.
SHAPES = [(2, 1, 40), (3, 1, 5, 24), (1, 257, 12), (2, 33, 5, 24), (2, 9, 2, 3, 16), (2, 20, 130)]
BLOCKS = [None, {"frames": 16, "rows": 3, "channels": 16}]


def random_case(seed, dtype=np.float32):
    """(arrays (a, b, h0, reset), options); a with exact zeros, h0 not finite where forgotten."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[seed % len(SHAPES)]
    a = rng.uniform(-1, 1, shape) if seed % 3 else rng.uniform(0.9, 1, shape)
    a = np.where(rng.uniform(size=shape) < 0.02, 0.0, a)
    b = rng.normal(size=shape)
    h0 = rng.normal(size=(shape[0], *shape[2:])).astype(np.float32)
    reset = rng.uniform(size=shape[:2]) < 0.1
    if seed % 4 == 0:
        reset[0, 0], h0[0] = True, np.nan
    arrays = (jnp.asarray(a, dtype), jnp.asarray(b, dtype), jnp.asarray(h0), jnp.asarray(reset))
    return arrays, {"blocks": BLOCKS[seed // len(SHAPES) % 2]}


def zoo_shapes():
    """(name, arrays as ShapeDtypeStruct, options) of the models' calls."""

    def shapes(dtype, *shape):
        x = jax.ShapeDtypeStruct(shape, dtype)
        return x, x, jax.ShapeDtypeStruct((shape[0], *shape[2:]), jnp.float32)

    return [
        ("vit_s_frame", shapes(jnp.float32, 1, 1, 196, 384), {}),
        ("vit_b_64_streams", shapes(jnp.float32, 64, 1, 197, 768), {}),
        ("vit_b_clip", shapes(jnp.float32, 8, 16, 196, 768), {}),
        ("vit_s_long", shapes(jnp.float32, 1, 257, 197, 384), {}),
        ("vit_b_clip_bf16", shapes(jnp.bfloat16, 8, 16, 196, 768), {}),
        ("griffin", shapes(jnp.float32, 4, 2048, 2560), {}),
    ]

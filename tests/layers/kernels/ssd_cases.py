"""Random and zoo-sized arguments of the operation ``ssd`` (q, k, v, g, state)."""

import jax
import jax.numpy as jnp
import numpy as np

# batch, frames, heads, head width, groups, features, chunk: sizes that divide nothing included
SHAPES = (
    (3, 1, 4, 64, 1, 32, 64),
    (8, 1, 2, 64, 2, 16, 64),
    (1, 1, 1, 256, 1, 64, 64),
    (2, 1, 8, 32, 2, 16, 64),
    (2, 17, 4, 64, 4, 16, 16),
    (1, 257, 2, 64, 1, 16, 64),
    (2, 40, 8, 32, 2, 16, 32),
    (3, 5, 1, 128, 1, 32, 64),
)


def random_case(seed, dtype=jnp.float32):
    """One shape of :data:`SHAPES` by seed, with strong and weak decays, resets and gaps."""
    rng = np.random.default_rng(seed)
    batch, steps, heads, width, groups, n, chunk = SHAPES[seed % len(SHAPES)]
    q, k = rng.normal(size=(2, batch, steps, groups, n)) * n**-0.5
    v = rng.normal(size=(batch, steps, heads * width))
    g = -rng.choice([0.0, 0.1, 3.0]) * rng.gamma(1.0, 0.5, (batch, steps, heads))
    g = np.where(rng.random((batch, steps, 1)) < 0.1, -1e4, g)  # resets
    gap = rng.random((batch, steps, 1)) < 0.2
    k, g = np.where(gap[..., None], 0.0, k), np.where(gap, 0.0, g)
    state = rng.normal(size=(batch, n, heads * width))
    arrays = tuple(jnp.asarray(a, dtype) for a in (q, k, v))
    return (*arrays, *(jnp.asarray(a, jnp.float32) for a in (g, state))), {"chunk": chunk}


def zoo_shapes():
    """(name, arrays as ShapeDtypeStruct, options) as the zoo's mixers call the operation."""
    found = []

    def add(name, batch, steps, heads, width, groups, n, dtype):
        struct = jax.ShapeDtypeStruct
        feature = struct((batch, steps, groups, n), dtype)
        found.append(
            (
                name,
                (
                    feature,
                    feature,
                    struct((batch, steps, heads * width), dtype),
                    struct((batch, steps, heads), jnp.float32),
                    struct((batch, n, heads * width), jnp.float32),
                ),
                {},
            )
        )

    for size, heads in (("s", 6), ("b", 12)):
        for streams in (1, 8):
            rows = 196 * streams
            of = f"-{size}16 step, {streams} streams"
            add("mamba2" + of, rows, 1, heads, 64, 1, 128, jnp.bfloat16)
            add("favor" + of, rows, 1, heads, 64, heads, 128, jnp.float32)
        add(f"mamba2-{size}16 clip", 196, 16, heads, 64, 1, 128, jnp.bfloat16)
    add("favor-s16 clip", 196, 16, 6, 64, 6, 128, jnp.float32)
    add("mamba2-b16 step, 197 tokens, narrow state", 197, 1, 12, 64, 1, 64, jnp.float32)
    add("Mamba-2 2.7B, prefill", 1, 1500, 80, 64, 1, 128, jnp.bfloat16)
    return found

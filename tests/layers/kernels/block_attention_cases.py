"""Cases of block_attention: random ones to compare backends with, and the shapes of the zoo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# batch, queries, page lists (0: one for all), per head, heads, kv_heads, width, page, slots, pages
SHAPES = (
    (2, 1, 0, False, 2, 1, 16, 16, 64, 2),
    (1, 4, 4, True, 4, 2, 64, 16, 48, 3),
    (2, 6, 3, False, 4, 4, 32, 16, 32, 1),
    (1, 1, 1, True, 6, 6, 64, 16, 64, 2),
    (3, 5, 5, False, 2, 2, 64, 16, 80, 4),
    (1, 7, 1, False, 4, 2, 128, 32, 96, 3),
    (2, 3, 3, True, 16, 1, 16, 16, 16, 1),
    (1, 257, 0, False, 2, 1, 16, 64, 128, 2),
    (2, 4, 2, True, 2, 2, 16, 16, 160, 9),
    (1, 8, 8, False, 12, 6, 64, 16, 64, 5),
    (1, 2, 2, True, 4, 4, 64, 32, 64, 2),
    (2, 1, 1, False, 8, 2, 64, 16, 48, 2),
)
SEEDS = 4 * len(SHAPES)  # four draws of every shape, so that each is compiled once
# Pages that do not divide the store, and widths of v of their own: not every backend takes them.
ODD = (
    (2, 4, 4, True, 2, 2, 64, 16, 41, 2),
    (1, 3, 1, False, 2, 1, 8, 8, 20, 3),
    (2, 3, 3, True, 4, 2, 8, 1, 33, 7),
    (1, 5, 5, False, 1, 1, 4, 5, 23, 2),
)


def draw(shape, seed, dtype=np.float32):
    batch, steps, groups, per_head, heads, kv_heads, width, page, slots, chosen = shape
    rng = np.random.default_rng(seed)
    normal = lambda *s: rng.normal(size=s).astype(np.float32)
    q = normal(batch, steps, heads * width)
    k, v = normal(batch, slots, kv_heads * width), normal(batch, slots, kv_heads * width)
    count = -(-slots // page)
    lead = (batch,) if not groups else (batch, groups) + ((kv_heads,) if per_head else ())
    pages = rng.integers(-1, count, (*lead, chosen))  # repetitions and -1 among them
    # A ring: the store begins anywhere, some keys never came, times beyond 2 ** 24.
    start = int(rng.choice([0, 2**24 + 1, 2**31 - 4096]))
    key_pos = np.stack([np.roll(np.arange(slots), rng.integers(slots)) for _ in range(batch)])
    key_pos = start + key_pos
    gone = rng.random(key_pos.shape) < rng.choice([0.0, 0.3, 1.0], p=[0.3, 0.6, 0.1])
    key_pos[gone] = -1
    if seed % 5 == 0:
        key_pos[0] = -1  # a stream that has seen nothing
    k[gone], v[gone] = np.nan, np.inf
    k[key_pos < 0] = np.nan
    v[key_pos < 0] = np.nan
    query_pos = start + np.sort(rng.integers(0, slots + 1, (batch, steps)), 1)
    arrays = {
        "q": jnp.asarray(q, dtype),
        "k": jnp.asarray(k, dtype),
        "v": jnp.asarray(v, dtype),
        "pages": jnp.asarray(pages, jnp.int32),
        "key_pos": jnp.asarray(key_pos, jnp.int32),
        "query_pos": jnp.asarray(query_pos, jnp.int32),
    }
    window = slots // 2 if shape in SHAPES and SHAPES.index(shape) % 3 == 0 else None
    return arrays, {"page": page, "heads": heads, "kv_heads": kv_heads, "window": window}


def random_case(seed, dtype=np.float32):
    """(arrays by name, options) for block_attention; every backend takes them."""
    return draw(SHAPES[seed % len(SHAPES)], seed, dtype)


def zoo_shapes():
    """[(name, arrays by name as ShapeDtypeStruct, options)]."""
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    index = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)

    def case(name, batch, steps, groups, per_head, heads, kv_heads, width, page, slots, chosen):
        lists = (kv_heads,) if per_head else ()
        arrays = {
            "q": shape((batch, steps, heads * width)),
            "k": shape((batch, slots, kv_heads * width)),
            "v": shape((batch, slots, kv_heads * width)),
            "pages": index((batch, groups, *lists, chosen)),
            "key_pos": index((batch, slots)),
            "query_pos": index((batch, steps)),
        }
        return name, arrays, {"page": page, "heads": heads, "kv_heads": kv_heads}

    return [
        # a page is a frame: its 196 tokens read the selected frames (ReKV, LiveVLM)
        case("ViT-S frame pages", 1, 196, 1, False, 6, 6, 64, 208, 64 * 208, 8),
        case("ViT-B frame pages", 8, 196, 1, False, 12, 12, 64, 208, 64 * 208, 16),
        # decoding: one query per stream, a page list per key head (NSA), 64 streams
        case("decode, 2 key heads", 64, 1, 1, True, 32, 2, 128, 64, 4096, 16),
        case("decode, pages of 16", 8, 1, 1, True, 12, 12, 64, 16, 1024, 16),
        # NSA over time, one memory per token position of a ViT-S frame
        case("NSA of a ViT-S", 196, 1, 1, True, 6, 2, 64, 16, 128, 4),
        case("kNN memory of a ViT-Ti", 196, 1, 1, True, 3, 3, 64, 16, 128, 2),
        # a clip: a list per query
        case("NSA clip", 2, 256, 256, True, 16, 1, 128, 32, 512, 4),
    ]

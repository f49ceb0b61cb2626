"""Ring attention: every backend against the reference, the reference against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.ring_attention import (
    dequantise,
    init_ring,
    quantise,
    read,
    ring_attention,
)

from . import ring_attention_cases as cases

CLASSES = range(len(cases.SHAPES))
GROUPED = [pytest.param(i, marks=pytest.mark.group(f"ring {i}")) for i in CLASSES]
SEEDS = 5  # per class of shapes


@functools.cache
def compiled(kind, implementation, **more):
    """One program per class of shapes: the seeds differ in their arrays only."""
    _, options = cases.random_case(kind)
    return jax.jit(functools.partial(read, implementation=implementation, **options, **more))


def float64(q, keys, options):
    """The definition, query by query: a softmax over every key of the history that is seen."""
    heads, kv_heads = options["heads"], options["kv_heads"]
    sinks, window, base = options["sinks"], options["window"], options["rope_base"]
    batch, steps, tokens, dim = q.shape
    head, half = dim // heads, dim // heads // 2
    codes = [keys.k, keys.v], [keys.k_scale, keys.v_scale]
    k, v = (np.asarray(dequantise(x, s, kv_heads), np.float64) for x, s in zip(*codes, strict=True))
    q, pos, now = np.asarray(q, np.float64), np.asarray(keys.pos), np.asarray(keys.now)
    pairs = half if options["pairs"] is None else options["pairs"]
    rates = np.r_[(base or 1.0) ** (-np.arange(pairs) / pairs), np.zeros(half - pairs)]

    def turn(x, place):
        a, b, angle = x[..., :half], x[..., half:], place * rates
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    out = np.zeros(q.shape)
    for b in range(batch):
        for t in range(steps):
            last = int(now[b, t])
            seen = [
                j
                for j, p in enumerate(pos[b])
                if 0 <= p <= last
                and (p < sinks or p > last - window)
                and (keys.select is None or keys.segment[b, j] in keys.select[b, t])
            ]
            if not seen:
                continue
            gone = max(0, last + 1 - sinks - window)  # evicted frames: places move up
            places = np.array([p if p < sinks else p - gone for p in pos[b, seen]])
            for h in range(heads):
                part, own = (slice(i * head, (i + 1) * head) for i in (h * kv_heads // heads, h))
                query, key, value = q[b, t, :, own], k[b, seen, :tokens, part], v[b, seen, :tokens]
                value = value[..., part]
                if base:
                    query, key = turn(query, last - gone), turn(key, places[:, None, None])
                if options["over"] == "position":
                    logits = np.einsum("nd,snd->ns", query, key) / np.sqrt(head)
                    weights = np.exp(logits - logits.max(1, keepdims=True))
                    mixed = np.einsum("ns,snd->nd", weights, value)
                else:
                    logits = query @ key.reshape(-1, head).T / np.sqrt(head)
                    weights = np.exp(logits - logits.max(1, keepdims=True))
                    mixed = weights @ value.reshape(-1, head)
                out[b, t, :, own] = mixed / weights.sum(1, keepdims=True)
    return out


@pytest.mark.parametrize("kind", GROUPED)
def test_reference_is_the_definition_in_float64(kind):
    for seed in range(kind, SEEDS * len(CLASSES), len(CLASSES)):
        (q, keys), options = cases.random_case(seed)
        got = compiled(kind, "reference")(q, keys)
        np.testing.assert_allclose(got, float64(q, keys, options), atol=2e-5, err_msg=str(seed))


@pytest.mark.parametrize("implementation", ["interpret", "interpret_tpu"])
@pytest.mark.parametrize("kind", GROUPED)
def test_kernels_equal_the_reference(kind, implementation):
    for seed in range(kind, SEEDS * len(CLASSES), len(CLASSES)):
        (q, keys), _ = cases.random_case(seed)
        want = compiled(kind, "reference")(q, keys)
        got = compiled(kind, implementation)(q, keys)
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(seed))


@pytest.mark.parametrize("kind", [0, 6, 8])
@pytest.mark.slow
def test_kernels_in_bfloat16(kind):
    """To 0.03 of values of size 1: products of bf16, summed in fp32."""
    for seed in range(kind, SEEDS * len(CLASSES), len(CLASSES)):
        (q, keys), options = cases.random_case(seed, jnp.bfloat16)
        want = compiled(kind, "reference")(q, keys)
        assert want.dtype == jnp.bfloat16
        np.testing.assert_allclose(want, float64(q, keys, options), atol=0.03, err_msg=str(seed))
        got = compiled(kind, "interpret_tpu")(q, keys).astype(jnp.float32)
        np.testing.assert_allclose(got, want.astype(jnp.float32), atol=0.03, err_msg=str(seed))


@pytest.mark.parametrize(
    ("kind", "implementation", "blocks"),
    [
        (9, "interpret_tpu", (("bytes", 1),)),  # 8 of 15 slots in a block
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (5, "interpret_tpu", (("rows", 16),)),  # 16 of 37 tokens in a tile
                (0, "interpret_tpu", (("rows", 16),)),
                (5, "interpret", (("keys", 16), ("rows", 16))),
            )
        ),
    ],
)
def test_blocks_that_do_not_divide(kind, implementation, blocks):
    (q, keys), _ = cases.random_case(kind)
    want = compiled(kind, "reference")(q, keys)
    got = compiled(kind, implementation, blocks=blocks)(q, keys)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 8])
@pytest.mark.slow
def test_gradients(kind):
    """Those of the reference, and finite beside slots that hold NaN."""
    (q, keys), options = cases.random_case(kind + 10)

    def loss(q, k, v, implementation):
        y = read(q, keys._replace(k=k, v=v), implementation=implementation, **options)
        return jnp.sin(y).sum()

    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    want = grad(q, keys.k, keys.v, "reference")
    got = grad(q, keys.k, keys.v, "interpret")
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(b).all() and np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_under_vmap_scan_and_shard_map():
    (q, keys), options = cases.random_case(0)
    want = compiled(0, "reference")(q, keys)
    run = functools.partial(read, implementation="interpret_tpu", **options)
    one = lambda x: jax.tree.map(lambda a: a[:, None], x)
    got = jax.jit(jax.vmap(run))(one(q), one(keys))[:, 0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    _, got = jax.jit(lambda *x: jax.lax.scan(lambda c, a: (c, run(*a)), 0, x))(one(q), one(keys))
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)
    spec = jax.sharding.PartitionSpec("x")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    part = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    np.testing.assert_allclose(jax.jit(part)(q, keys), want, atol=1e-5)


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
def test_codes_are_off_by_half_a_scale_at_most(bits, top):
    x = jax.random.normal(jax.random.key(bits), (3, 5, 32)) * jnp.arange(1, 6)[:, None]
    codes, scale = quantise(x, 2, bits)
    assert codes.dtype == jnp.int8 and codes.shape == (3, 5, 32 * bits // 8)
    assert scale.shape == (3, 16 // bits, 5)
    parts = lambda a: np.asarray(a).reshape(3, 5, 2, 8 // bits, -1)
    bound = np.abs(parts(x)).max(-1, keepdims=True) / top / 2
    error = np.abs(parts(dequantise(codes, scale, 2)) - parts(x))
    assert (error <= bound * 1.0001).all() and error.max() > bound.min() / 2


def stream(q, k, v, chunks, **options):
    """ring_attention over chunks: outputs [B, T, N, D]."""
    made = ("bits", "segments")
    own = {name: options.pop(name) for name in made if name in options}
    kv_heads = options.get("kv_heads") or options["heads"]
    sinks, window, segment = options["sinks"], options["window"], options.pop("segment", None)
    ring = init_ring(
        q.shape[0], sinks, window, q.shape[2], k.shape[-1], q.dtype, kv_heads=kv_heads, **own
    )
    step, at, parts = jax.jit(functools.partial(ring_attention, **options)), 0, []
    for n in chunks:
        cut = slice(at, at + n)
        named = {} if segment is None else {"segment": segment[:, cut]}
        ring, y = step(ring, q[:, cut], k[:, cut], v[:, cut], **named)
        parts.append(y)
        at += n
    return jnp.concatenate(parts, axis=1)


def random_frames(seed, steps, tokens, dim, kv_dim):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(2, steps, tokens, d) for d in (dim, kv_dim, kv_dim)]
    return [jax.random.normal(key, s) for key, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("over", ["position", "frame"])
def test_grouped_heads_equal_repeated_ones(over):
    q, k, v = random_frames(0, 6, 9, 32, 16)
    options = {"heads": 4, "sinks": 1, "window": 2, "over": over}
    repeat = lambda a: jnp.repeat(a.reshape(*a.shape[:3], 2, 8), 2, 3).reshape(q.shape)
    want = stream(q, repeat(k), repeat(v), [3, 3], **options)
    got = stream(q, k, v, [3, 1, 1, 1], kv_heads=2, **options)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_axial_rotation_in_three_dimensions():
    """Against explicit angles of (time, row, column), full attention, nothing evicted."""
    q, k, v = random_frames(1, 4, 6, 24, 24)
    coords = np.array([(r, c) for r in range(2) for c in range(3)])
    options = {"heads": 2, "sinks": 0, "window": 4, "over": "frame", "rope_base": 100.0}
    got = stream(q, k, v, [2, 1, 1], coords=jnp.asarray(coords), **options)
    time = np.repeat(np.arange(4), 6)
    places = np.stack([time, *np.tile(coords, (4, 1)).T])  # [3, T N]
    rates = 100.0 ** (-np.arange(2) / 2)
    angle = np.concatenate([p[:, None] * rates for p in places], axis=1)  # [T N, 6]

    def turn(x):
        x = np.asarray(x, np.float64).reshape(2, 24, 2, 12)
        a, b, cos, sin = x[..., :6], x[..., 6:], np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    logits = np.einsum("bqhd,bkhd->bhqk", turn(q), turn(k)) / np.sqrt(12)
    logits = np.where(time[:, None] >= time[None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("bhqk,bkhd->bqhd", weights, np.asarray(v).reshape(2, 24, 2, 12))
    np.testing.assert_allclose(got, want.reshape(2, 4, 6, 24), atol=1e-5)


@pytest.mark.parametrize("chunks", [[1] * 6, [4, 2]])
def test_a_new_segment_is_a_new_stream(chunks):
    q, k, v = random_frames(2, 6, 3, 16, 16)
    options = {"heads": 2, "sinks": 0, "window": 5}
    segment = jnp.asarray([[0, 0, 0, 7, 7, 7]] * 2, jnp.int32)
    got = stream(q, k, v, chunks, segments=True, segment=segment, **options)
    for cut in (slice(0, 3), slice(3, 6)):
        want = stream(q[:, cut], k[:, cut], v[:, cut], [3], **options)
        np.testing.assert_allclose(got[:, cut], want, atol=1e-5)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (4, 0.5)])
def test_quantised_stream_is_near_the_plain_one(bits, most):
    q, k, v = random_frames(3, 5, 8, 32, 32)
    options = {"heads": 2, "sinks": 1, "window": 2, "over": "frame"}
    want = stream(q, k, v, [5], **options)
    frames = stream(q, k, v, [1] * 5, bits=bits, **options)
    np.testing.assert_allclose(stream(q, k, v, [5], bits=bits, **options), frames, atol=1e-5)
    assert 0 < np.abs(frames - want).max() < most


def test_the_write_is_in_place():
    ring = init_ring(2, 1, 7, 20, 32, jnp.float32)
    step = jax.jit(functools.partial(ring_attention, heads=2, sinks=1, window=7), donate_argnums=0)
    q, k, v = random_frames(4, 1, 20, 32, 32)
    ring, _ = step(ring, q, k, v)
    before = [a.unsafe_buffer_pointer() for a in (ring.k, ring.v)]
    ring, _ = step(ring, q, k, v)
    assert [a.unsafe_buffer_pointer() for a in (ring.k, ring.v)] == before


def test_bad_input_is_named():
    ring = init_ring(1, 1, 3, 2, 16, jnp.float32)
    q = jnp.zeros((1, 1, 2, 16))
    run = functools.partial(ring_attention, heads=2, sinks=1, window=3)
    with pytest.raises(KernelError, match=r"ring_attention: ring .* must be \(1, 6, 2, 16\)"):
        run(ring, q, q, q, window=5)
    with pytest.raises(KernelError, match="kv_heads=3 must divide heads=2"):
        run(ring, q, q, q, kv_heads=3)
    with pytest.raises(KernelError, match=r"k \(1, 1, 2, 16\) must be \(1, 1, 2, 8\)"):
        run(ring, q, q, q, kv_heads=1)
    with pytest.raises(KernelError, match="over='frames' is neither"):
        run(ring, q, q, q, over="frames")
    with pytest.raises(KernelError, match="segments=True"):
        run(ring, q, q, q, segment=jnp.zeros((1, 1), jnp.int32))
    with pytest.raises(KernelError, match="bits=3 is neither 8 nor 4"):
        init_ring(1, 1, 3, 2, 16, jnp.float32, bits=3)
    with pytest.raises(KernelError, match=r"rope_pairs=\(1, 1\) must be 3 numbers"):
        run(ring, q, q, q, coords=jnp.zeros((2, 2)), rope_pairs=(1, 1))
    with pytest.raises(KernelError, match="'palas': did you mean 'pallas'"):
        run(ring, q, q, q, implementation="palas")
    with pytest.raises(KernelError, match="head width 8; a power of two.*reference, interpret"):
        run(ring, q, q, q, implementation="pallas")
    with pytest.raises(ValueError, match="no block size .'row'."):
        run(ring, q, q, q, implementation="interpret", blocks={"row": 3})
    ring = init_ring(1, 1, 3, 16, 64, jnp.float32)
    q = jnp.zeros((1, 1, 16, 64))
    with pytest.raises(KernelError, match="'pallas' does not run on cpu"):
        run(ring, q, q, q, implementation="pallas")


def test_parity_with_the_sliding_window_of_mistral():
    """transformers' own attention, mask and rotation, all steps at once, against our stream."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.MistralConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    layer = transformers.MistralModel(config).eval()
    attention, caught = layer.layers[0].self_attn, {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        hook = lambda _, x, y, name=name: caught.update({name: (x[0], y)})
        getattr(attention, name).register_forward_hook(hook)
    with torch.no_grad():
        layer(torch.randint(0, 16, (2, 17)))
    q, k, v = (caught[f"{n}_proj"][1].numpy()[:, :, None] for n in "qkv")
    want = caught["o_proj"][0].numpy()
    options = {"heads": 4, "kv_heads": 2, "sinks": 0, "window": 5}
    q, k, v = (jnp.asarray(a) for a in (q, k, v))
    # single frames alone hide a window that is one too wide in a chunk
    for chunks in ([1] * 17, [6, 1, 7, 3]):
        got = stream(q, k, v, chunks, **options)
        np.testing.assert_allclose(got[:, :, 0], want, atol=1e-5)

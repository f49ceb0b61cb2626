"""Encoders as streams: the recompute cache and the frame memo obey the carry law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.recompute import (
    Recompute,
    References,
    full_block,
    least,
    partial_block,
    project_keys,
    put,
    take,
)
from streamzoo.layers.transformer import Attention, Block, BlockConfig
from streamzoo.zoo.convert import convert
from streamzoo.zoo.encode.cached import CachedEncoder, FrameMemo
from streamzoo.zoo.encode.clip.convert import block_rules
from streamzoo.zoo.encode.convnext.model import ConvNeXt, ConvNeXtConfig
from streamzoo.zoo.encode.every_frame import EveryFrame
from streamzoo.zoo.encode.vit import ImageViT, ImageViTConfig, block_of
from streamzoo.zoo.registry import Card
from streamzoo.zoo.streams import as_stream
from streamzoo.zoo.traits import in_dtype

from ..language import golden, needs_goldens

# rotary angles, no key bias, gains, registers: all that the blocks of DINOv3 have
CONFIG = ImageViTConfig(
    image_size=(32, 48), patch=8, dim=32, depth=2, heads=2, registers=2, positions="rope",
    class_position=False, biased="qv", layer_scale=0.5,
)  # fmt: skip
POLICY = Recompute(budget=0.25, period=3)


@functools.cache
def weights(config=CONFIG):
    params = jax.jit(ImageViT(config).init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    return lively(params)


def lively(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def frames(seed, batch, steps):
    """A still picture with a patch of noise that moves."""
    key, other = jax.random.split(jax.random.key(seed))
    still = jax.random.normal(key, (batch, 1, 32, 48, 3))
    return still + 0.3 * jax.random.normal(other, (batch, steps, 32, 48, 3))


@functools.cache
def cached(rolling):
    policy = Recompute(POLICY.budget, POLICY.period, rolling)
    return Subject.of(CachedEncoder(CONFIG, policy), weights(), frames)


@functools.cache
def memo():
    encoder = ConvNeXt(ConvNeXtConfig((32, 48), (8,), (1,), filter=3, layer_scale=0.5))
    params = lively(jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3))))
    return Subject.of(FrameMemo(encoder, threshold=0.12, period=3, square=8), params, frames)


@functools.cache
def every():
    encoder = ConvNeXt(ConvNeXtConfig((32, 48), (8,), (1,), filter=3, layer_scale=0.5))
    params = lively(jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3))))
    return Subject.of(EveryFrame(encoder), params, frames)


LAWS = [law for law in contract.LAWS if law is not contract.check_latency]
# one program per number of frames is compiled: few numbers, shared among the laws
FEWER = {
    contract.check_chunking: dict(steps=4, seeds=3, clips=()),
    contract.check_scan: dict(steps=4),
    contract.check_causality: dict(steps=3),
    contract.check_slots: dict(steps=4),
    contract.check_gaps: dict(steps=4, seeds=2),
    contract.check_endurance: dict(frames=64),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("make", [lambda: cached(True), memo], ids=["rolling", "memo"])
def test_carry_law(make, law):
    law(make(), **FEWER.get(law, {}))


@pytest.mark.slow
@pytest.mark.parametrize("law", [contract.check_slots, contract.check_gaps])
def test_carry_law_with_fixed_references(law):
    law(cached(False), **FEWER[law])


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Recompute(budget=1.0, period=4), Recompute(0.1, period=1)])
def test_a_full_budget_is_the_plain_encoder_bit_for_bit(policy):
    live, x = CachedEncoder(CONFIG, policy), frames(0, 2, 3)
    step, plain, carry = jax.jit(live.apply), jax.jit(ImageViT(CONFIG).apply), live.init_carry(2)
    for t in range(3):
        carry, out = step(weights(), carry, x[:, t : t + 1])
        want = plain(weights(), x[:, t])
        for name in ("features", "pooled", "prefix"):
            np.testing.assert_array_equal(getattr(out, name)[:, 0], getattr(want, name))


def test_an_encoder_as_a_stream_is_the_encoder_at_every_frame():
    stream, x = as_stream(ImageViT(CONFIG), Card("a", summary="b")), frames(0, 2, 3)
    assert stream.init_carry(2) == ()
    here = jnp.asarray([[True, False, True], [True, True, True]])
    carry, out = jax.jit(stream.apply)(weights(), (), x, here)
    want = jax.jit(ImageViT(CONFIG).apply)(weights(), x.reshape(6, *x.shape[2:]))
    assert carry == ()
    for name in ("features", "pooled", "prefix"):
        a, b = getattr(out, name), getattr(want, name)
        b = b.reshape(2, 3, *b.shape[1:])
        np.testing.assert_allclose(a[:, 2], b[:, 2], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(a[0, 1], np.zeros_like(a[0, 1]))
    narrow = in_dtype(stream, "bfloat16")
    assert narrow is not None and narrow.encoder.config.dtype == "bfloat16"


@pytest.mark.parametrize(
    "law", [contract.check_chunking, contract.check_slots, contract.check_gaps]
)
def test_the_carry_law_of_every_frame(law):
    law(every(), **FEWER[law])


def test_parameters_are_those_of_the_encoder():
    live = CachedEncoder(CONFIG, POLICY)
    made = jax.eval_shape(live.init, jax.random.key(0), live.init_carry(1), frames(0, 1, 1))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, weights())


def test_the_first_frame_and_every_period_th_are_plain():
    live, x = CachedEncoder(CONFIG, POLICY), frames(0, 1, 5)
    _, out = jax.jit(live.apply)(weights(), live.init_carry(1), x)
    plain = jax.jit(ImageViT(CONFIG).apply)(weights(), x[0]).features
    gaps = jnp.abs(out.features[0] - plain).max(axis=(1, 2, 3))
    assert (gaps[jnp.asarray([0, 3])] < 1e-5).all() and (gaps[jnp.asarray([1, 2, 4])] > 1e-2).all()


def test_a_still_picture_costs_nothing_in_accuracy():
    live, x = CachedEncoder(CONFIG, Recompute(0.1, 5)), jnp.repeat(frames(0, 1, 1), 4, axis=1)
    _, out = jax.jit(live.apply)(weights(), live.init_carry(1), x)
    np.testing.assert_allclose(out.features[0, 1:], out.features[0, :1].repeat(3, 0), atol=1e-5)


def test_a_block_by_its_definition():
    """One partial block against loops over tokens."""
    block, rope = block_of(CONFIG), ImageViT(CONFIG).angles(4, 6)
    params = jax.tree.map(lambda a: a[0], weights()["params"]["blocks"]["layer0"])
    tokens, dim = 27, CONFIG.dim
    keys = jax.random.split(jax.random.key(2), 2)
    x = jax.random.normal(keys[0], (1, tokens, dim))

    def bound(method, *args):
        return jax.jit(lambda *a: block.apply({"params": params}, *a, method=method))(*args)

    whole = lambda block, x: full_block(block, x, rope)
    _, refs = bound(whole, x + 0.5 * jax.random.normal(keys[1], x.shape))
    refs = References(refs.keys, *(a + 0.1 for a in refs[1:]))
    got, kept = bound(lambda block, x, r: partial_block(block, x, r, rope, 8, 3), x, refs)
    assert kept is None

    q, k, v = bound(lambda block, x: block.attn.project(block.norm1(x), rope), x)
    flat, old = np.asarray(k[0]).reshape(tokens, dim), np.asarray(refs.keys[0])
    cosine = (flat * old).sum(-1) / np.linalg.norm(flat, axis=-1) / np.linalg.norm(old, axis=-1)
    chosen = {0, 1, 2} | set(3 + np.argsort(cosine[3:])[:5])
    values = np.asarray(refs.values).copy()
    for token in chosen:
        values[0, token] = np.asarray(v).reshape(1, tokens, dim)[0, token]
    values = values.reshape(v.shape)
    attended = bound(
        lambda block, q, k, v: block.scale1(block.attn.attend(q, k, v)[0]), q, k, values
    )
    y = np.asarray(x).copy()
    for token in range(tokens):
        y[0, token] += (attended if token in chosen else refs.attended)[0, token]
    hidden = bound(lambda block, y: block.scale2(block.mlp(block.norm2(y))), y)
    for token in range(tokens):
        y[0, token] += (hidden if token in chosen else refs.hidden)[0, token]
    np.testing.assert_allclose(got, y, atol=1e-5)

    _, new = bound(lambda block, x, r: partial_block(block, x, r, rope, 8, 3, True), x, refs)
    mine = np.asarray([t in chosen for t in range(tokens)])
    for now, was in zip(new, refs, strict=True):
        np.testing.assert_array_equal(now[0, ~mine], was[0, ~mine])
    lengths = np.linalg.norm(flat[mine], axis=-1, keepdims=True)
    np.testing.assert_allclose(new.keys[0, mine], flat[mine] / lengths, atol=1e-5)
    np.testing.assert_allclose(new.hidden[0, mine], hidden[0, mine], atol=1e-5)


def test_choosing_and_placing_tokens():
    score = jnp.asarray([[3.0, 1.0, 1.0, 0.5, 1.0]])
    index, place = least(score, 3)
    assert index.tolist() == [[1, 2, 3]] and place.tolist() == [[-1, 0, 1, 2, -1]]
    x = jnp.arange(10.0).reshape(1, 5, 2)
    got = put(take(x, index) + 100, x, place)[0, :, 0]
    np.testing.assert_array_equal(got, [0, 102, 104, 106, 8])


@pytest.mark.parametrize("biased", ["qkv", "qv", "k"])
def test_keys_alone_are_those_of_the_whole_projection(biased):
    attn = Attention(BlockConfig(8, 2, biased=biased))
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    params = lively(jax.jit(attn.init)(jax.random.key(1), x))
    both = jax.jit(
        lambda p: (attn.apply(p, x, method="project")[1], attn.apply(p, x, method=project_keys))
    )
    want, got = both(params)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_memo_answers_again_until_something_moves_or_time_is_up():
    step, still = memo().jitted, jnp.repeat(frames(3, 1, 1), 7, axis=1)
    x = still.at[:, 4, :8, :8].add(1.0)  # one square, one frame
    _, out = step(memo().init_carry(1), x, None)
    same = [bool((out.features[0, t] == out.features[0, t - 1]).all()) for t in range(1, 7)]
    # encoded: 0 (first), 3 (period), 4 and 5 (moved there and back); a repeat gives equal features
    assert same == [True, True, True, False, False, True]


@pytest.mark.parametrize("fields", [dict(budget=0.0), dict(budget=1.5), dict(period=0)])
def test_policies_that_cannot_be(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Recompute(**fields)


def test_another_frame_size_is_named():
    live = CachedEncoder(CONFIG, POLICY)
    with pytest.raises(ValueError, match="another batch size, frame size"):
        live.apply(weights(), live.init_carry(1), jnp.zeros((1, 1, 32, 32, 3)))


@needs_goldens
def test_tokens_that_are_computed_anew_are_stcs():
    """Chunks take turns: all tokens, with the last frame as reference, then those whose keys
    changed most."""
    z, _ = golden("stc_cacher")
    tensors = {f"encoder.layers.{k[2:]}": v for k, v in z.items() if k.startswith("p/")}
    params = convert(tensors, block_rules("", 3))["params"]["blocks"]["layer0"]
    config = BlockConfig(24, 4, mlp_ratio=40 / 24, activation="gelu_tanh", eps=1e-6)
    block = Block(config)
    layer = lambda i: {"params": jax.tree.map(lambda a: a[i], params)}
    whole = jax.jit(lambda p, x: block.apply(p, x, method=full_block))
    part = jax.jit(lambda p, x, refs: block.apply(p, x, refs, None, 4, method=partial_block)[0])
    refs = {}
    for chunk in range(5):
        x = plain = z[f"in{chunk}"]
        for i in range(3):
            plain, _ = whole(layer(i), plain)
            if chunk % 2 == 0:
                x, found = whole(layer(i), x)
                refs[i] = jax.tree.map(lambda a: a[-1:], found)
            else:
                same = jax.tree.map(lambda a, x=x: jnp.repeat(a, len(x), axis=0), refs[i])
                x = part(layer(i), x, same)
            want = z[f"out{chunk}_layer{i}"]
            np.testing.assert_allclose(x, want, atol=2e-5, err_msg=f"{chunk} {i}")
        np.testing.assert_allclose(plain, z[f"full{chunk}"], atol=2e-5)

"""SAMI: the encoder sees the visible patches alone, the decoder updates the masked ones alone."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.sami import SAMI, SAMIConfig
from streamzoo.zoo.encode import ImageViT, ImageViTConfig
from streamzoo.zoo.encode.adapters import Widths
from streamzoo.zoo.encode.masked import MaskedDecoder, encode_visible, random_mask
from streamzoo.zoo.encode.vit import block_of
from streamzoo.zoo.registry import Card

CARD = Card("test", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SHAPE: dict[str, Any] = dict(image_size=(16, 12), patch=4, dim=16, depth=2, heads=2, registers=1)
GRID, TOKENS = (4, 3), 12


def make_encoder(**fields):
    model = ImageViT(ImageViTConfig(**{**SHAPE, **fields}))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 12, 3)))
    rng = np.random.default_rng(0)
    fill = lambda a: jnp.asarray(rng.normal(size=a.shape) / 3, jnp.float32)
    return model, jax.tree.map(fill, shapes)


def test_masks_divide_the_patches():
    visible, masked = jax.jit(random_mask, static_argnums=(1, 2, 3))(
        jax.random.key(0), 50, 20, 0.75
    )
    assert visible.shape == (50, 5) and masked.shape == (50, 15)
    both = np.sort(np.concatenate([visible, masked], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.arange(20)[None].repeat(50, 0))
    counts = np.bincount(np.asarray(masked).reshape(-1), minlength=20)
    assert counts.min() > 25 and counts.max() < 49  # 37.5 expected, each patch its turn
    assert len({tuple(row) for row in np.asarray(visible)}) > 40
    assert [a.shape[1] for a in random_mask(jax.random.key(0), 1, 3, 0.99)] == [1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"positions": "learned"},
        {"positions": "rope", "class_position": False, "biased": "qv", "layer_scale": 0.5},
    ],
    ids=["learned", "rope"],
)
def test_visible_path_is_the_blocks_on_the_visible_tokens(fields):
    """By hand: embed all, pick the tokens and their angles, block after block, norm."""
    model, variables = make_encoder(**fields)
    cfg = model.config
    rng = np.random.default_rng(1)
    frames = jnp.asarray(rng.normal(size=(3, 16, 12, 3)), jnp.float32)
    visible = jnp.asarray([[0, 5, 11], [2, 3, 4], [1, 6, 9]])
    run = jax.jit(lambda v, x, at: model.apply(v, x, at, method=encode_visible))
    got = run(variables, frames, visible)

    tokens: Any = model.apply(variables, frames, method="embed")
    angles = model.angles(*GRID)
    block: Any = block_of(cfg)
    layers = variables["params"]["blocks"]["layer0"]

    @jax.jit
    def by_hand(x, rope):
        for i in range(cfg.depth):
            part = {"params": jax.tree.map(lambda a: a[i], layers)}
            _, x, _ = block.apply(part, (), x, rope=rope)
        norm = variables["params"]["norm"]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + cfg.eps)
        return x * norm["scale"] + norm["bias"]

    for i in range(3):
        at = np.concatenate([np.arange(cfg.prefix), cfg.prefix + np.asarray(visible[i])])
        rope = None if angles is None else tuple(a[at] for a in angles)
        want = by_hand(tokens[i, at][None, None], rope)
        np.testing.assert_allclose(got[i], want[0, 0], atol=2e-5)
    # with nothing masked it is the encoder itself
    every = jnp.broadcast_to(jnp.arange(TOKENS), (3, TOKENS))
    plain = jax.jit(model.apply)(variables, frames)
    tokens = run(variables, frames, every)
    np.testing.assert_allclose(
        tokens[:, cfg.prefix :].reshape(plain.features.shape), plain.features, atol=2e-5
    )
    np.testing.assert_allclose(tokens[:, : cfg.prefix], plain.prefix, atol=2e-5)


def decoder_by_hand(params, encoded, visible, masked, table, heads):
    """One frame's decoder in NumPy."""
    dense = lambda p, x: x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
    erf = np.vectorize(math.erf)

    def norm(p, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * np.asarray(p["scale"]) + np.asarray(p["bias"])

    memory = dense(params["embed"], encoded)
    prefix = len(encoded) - len(visible)
    memory[prefix:] += table[visible]
    x = np.asarray(params["mask_token"]) + table[masked]
    count = sum(name.startswith("layers_") for name in params)
    for i in range(count):
        p = params[f"layers_{i}"]
        read = norm(p["norm_memory"], np.concatenate([memory, x]))
        q = dense(p["query"], norm(p["norm_x"], x))
        k, v = np.split(dense(p["key_value"], read), 2, axis=1)
        parts = []
        for one in np.split(np.arange(q.shape[1]), heads):
            logits = q[:, one] @ k[:, one].T / np.sqrt(len(one))
            rows = np.exp(logits - logits.max(1, keepdims=True))
            parts.append(rows / rows.sum(1, keepdims=True) @ v[:, one])
        x = x + dense(p["out"], np.concatenate(parts, axis=1))
        h = dense(p["mlp"]["up"], norm(p["norm_mlp"], x))
        x = x + dense(p["mlp"]["down"], h * 0.5 * (1 + erf(h / np.sqrt(2))))
    return dense(params["project"], norm(params["norm"], x))


def test_decoder_is_the_cross_attention_by_hand():
    from streamzoo.layers.positions import sincos_2d

    rng = np.random.default_rng(2)
    decoder = MaskedDecoder(8, 5, depth=2, heads=2)
    visible, masked = np.asarray([[1, 4, 7]]), np.asarray([[0, 2, 3, 5, 6, 8, 9, 10, 11]])
    encoded = rng.normal(size=(1, 5, 16)).astype("f4")
    given = encoded, visible, masked
    shapes = jax.eval_shape(lambda k: decoder.init(k, *given, GRID), jax.random.key(0))
    fill = lambda a: jnp.asarray(rng.normal(size=a.shape) / 2, jnp.float32)
    variables = jax.tree.map(fill, shapes)
    got = jax.jit(lambda v: decoder.apply(v, *given, GRID))(variables)
    table = sincos_2d(*GRID, 8)
    want = decoder_by_hand(variables["params"], encoded[0], visible[0], masked[0], table, 2)
    np.testing.assert_allclose(got[0], want, atol=1e-4)


def make_task(config=SAMIConfig(depth=1, heads=2, dim=8), **more):
    model, variables = make_encoder()
    given: dict = dict(teacher="t", widths=Widths(0, 3), size=(16, 12), config=config) | more
    return SAMI(model, CARD, variables, **given)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "frames": jnp.asarray(rng.integers(0, 256, (4, 1, 16, 12, 3), np.uint8)),
        "valid": jnp.asarray([[True], [True], [True], [False]]),
        "target_t_spatial": jnp.asarray(rng.normal(1, 2, (4, 1, *GRID, 3)), jnp.float32),
    }


@pytest.mark.slow
def test_loss_is_of_the_masked_patches_alone():
    figures = {"mean": np.asarray([1.0, 0, 2], "f4"), "std": np.asarray([2.0, 1, 3], "f4")}
    task = make_task(statistics={"t": {"spatial": figures}})
    params, batch, key = task.init(jax.random.key(1)), make_batch(), jax.random.key(4)
    run = jax.jit(lambda batch: task.loss(params, task.constants, (), key, batch)[0])
    loss = float(run(batch))
    visible, masked = task.hidden(key, 4, 1)
    frames = batch["frames"][:, 0].astype(jnp.float32) / 255
    said = jax.jit(task.reconstruct)(params, frames, visible, masked)
    meant = np.asarray(batch["target_t_spatial"])[:, 0].reshape(4, TOKENS, 3)
    meant = (meant - figures["mean"]) / figures["std"]
    errors = [((np.asarray(said[i]) - meant[i, masked[i]]) ** 2).mean() for i in range(3)]
    assert loss == pytest.approx(np.mean(errors), rel=1e-5)
    # the teacher's word on a visible patch, or on a frame that is not there, changes nothing
    target = np.asarray(batch["target_t_spatial"]).reshape(4, TOKENS, 3).copy()
    for i in range(4):
        target[i, visible[i]] += 100
    target[3] = 1e6
    shape = batch["target_t_spatial"].shape
    assert float(run({**batch, "target_t_spatial": target.reshape(shape)})) == loss
    target[0, masked[0, 0]] += 1
    assert float(run({**batch, "target_t_spatial": target.reshape(shape)})) != loss


def test_masked_pixels_never_reach_the_encoder():
    task = make_task()
    params = task.init(jax.random.key(1))
    visible, masked = random_mask(jax.random.key(4), 3, TOKENS, 0.75)
    frames = make_batch()["frames"][:3, 0].astype(jnp.float32) / 255
    total = lambda x: (task.reconstruct(params, x, visible, masked) ** 2).sum()
    slope = np.abs(jax.jit(jax.grad(total))(frames))
    each = slope.reshape(3, 4, 4, 3, 4, 3).sum(axis=(2, 4, 5)).reshape(3, TOKENS)
    for i in range(3):
        assert not each[i, masked[i]].any() and (each[i, visible[i]] > 0).all()


@pytest.mark.slow
def test_it_learns_what_can_be_told_from_the_visible_patches():
    """Frames of one colour each and a teacher that says it: a quarter of them tells the rest."""
    model = ImageViT(ImageViTConfig(**SHAPE))
    frames = jnp.zeros((1, 16, 12, 3))
    variables = jax.jit(model.init)(jax.random.key(0), frames)
    task = SAMI(
        model, CARD, variables, "t", Widths(0, 3), SAMIConfig(depth=1, dim=16, standardise=False),
        size=(16, 12),
    )  # fmt: skip
    optimiser = optax.adam(3e-3)
    params = task.init(jax.random.key(1))

    def step(given, key):
        params, state = given
        colour = jax.random.uniform(key, (16, 1, 1, 1, 3))
        batch = {
            "frames": jnp.broadcast_to(colour, (16, 1, 16, 12, 3)),
            "valid": jnp.ones((16, 1), bool),
            "target_t_spatial": jnp.broadcast_to(3 * colour - 1.5, (16, 1, *GRID, 3)),
        }
        slope = jax.value_and_grad(task.loss, has_aux=True)
        (loss, _), grad = slope(params, task.constants, (), key, batch)
        change, state = optimiser.update(grad, state)
        return (optax.apply_updates(params, change), state), loss

    keys = jax.random.split(jax.random.key(2), 200)
    run = jax.jit(lambda given: jax.lax.scan(step, given, keys)[1])
    losses = run((params, optimiser.init(params)))
    assert losses[-20:].mean() < 0.1  # the colours' variance is 0.75
    assert losses[:5].mean() > 0.5


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="nothing about single patches"):
        make_task(widths=Widths(4, 0))
    with pytest.raises(ValueError, match="mask is above 0 and below 1"):
        SAMIConfig(mask=1.0)
    with pytest.raises(DataError, match="ImageViT"):
        SAMI(object(), CARD, {"params": {}}, "t", Widths(0, 3), size=(16, 12))

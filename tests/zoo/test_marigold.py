"""Marigold's path: depth is drawn from noise through an autoencoder, several times, and joined."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.data.world import World
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import convert_checkpoint
from streamzoo.zoo.depth.marigold.ensemble import ensemble_depth
from streamzoo.zoo.depth.marigold.model import Marigold, MarigoldConfig

from ..parity.golden import DATA
from ..parity.golden_marigold import maps
from .drawn import drawn
from .generate.goldens import SHARED

REAL = SHARED / "data/weights/taef2_f8c32_fp16.safetensors"
TINY: dict[str, Any] = dict(
    autoencoder=dict(image_size=[16, 24], latent=4, width=4),
    denoiser=dict(
        channels=4, control=4, image_size=[2, 3], patch=1, dim=12, hidden=12, depth=1, heads=2,
        frequencies=4, text_dim=4,
    ),
    steps=2,
)  # fmt: skip


@functools.cache
def tiny(**more):
    model: Any = create_model("marigold-s", **TINY, **more)
    return model, drawn("marigold-s", 0.2, **TINY)


@pytest.mark.parametrize("count,reduction", [(1, "median"), (2, "median"), (2, "mean")])
def test_drawings_are_joined_as_marigolds(count, reduction):
    with np.load(DATA / "marigold.npz") as file:
        depth, doubt = (file[f"{kind}_{count}_{reduction}"] for kind in ("depth", "doubt"))
    found, unsure = ensemble_depth(maps(count), reduction)
    # theirs and ours follow differences of fp32 costs over 1e-8: of more maps they are rounding,
    # and another processor ends elsewhere
    np.testing.assert_allclose(found, depth, atol=6e-3)
    np.testing.assert_allclose(unsure, np.nan_to_num(doubt), atol=6e-3)
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("reduction", ["median", "mean"])
def test_five_drawings_know_more_than_each(reduction):
    given = maps(5)
    scene = np.add.outer(np.linspace(0, 1, 12) ** 2, 0.5 * np.sin(np.linspace(0, 5, 16)))
    like = lambda a: np.corrcoef(np.ravel(a), np.ravel(scene))[0, 1]
    found, unsure = ensemble_depth(given, reduction)
    assert like(found) > max(map(like, given))
    other, _ = ensemble_depth(3 * given + 2, reduction)  # whatever their scales and shifts
    np.testing.assert_allclose(other, found, atol=0.02)
    assert 0 < unsure.mean() < 0.2


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(ValueError, match=r"maps \[N, H, W\]"):
        ensemble_depth(np.zeros((4, 4)))
    bad: Any = "best"
    with pytest.raises(ValueError, match="median or mean"):
        ensemble_depth(np.zeros((2, 4, 4)), bad)


class Knows(Marigold):
    """A denoiser that knows the depth: the velocity of noisy latents towards its latent."""

    truth: Any = None

    def answer(self, noisy, picture, time):
        del picture
        schedule = self.config.schedule
        kept = jnp.asarray(schedule.kept)[time][:, None, None, None]
        clean = self.encode_depth(self.truth)
        a, b = jnp.sqrt(kept), jnp.sqrt(1 - kept)
        return a * (noisy - a * clean) / b - b * clean


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="TAEF2's weights are not here")
def test_a_denoiser_that_knows_draws_the_depth():
    """What is left is the autoencoder's, which was made for pictures and not for depth."""
    shot = World(seed=4, size=(96, 128)).shoot(1)
    truth = jnp.asarray((shot.depth / shot.depth.max()))
    _, params = convert_checkpoint(REAL)
    config = MarigoldConfig()
    sizes = dict(image_size=(96, 128)), dict(image_size=(12, 16))
    config = dataclasses.replace(
        config,
        autoencoder=dataclasses.replace(config.autoencoder, **sizes[0]),
        denoiser=dataclasses.replace(config.denoiser, **sizes[1]),
    )
    model = Knows(config, truth=truth)
    given = {"params": {"autoencoder": params["params"]}}
    noise = jax.random.normal(jax.random.key(1), (1, 12, 16, 32))
    pictures = jnp.asarray(shot.frames, jnp.float32) / 255
    drawn_ = jax.jit(lambda x, n: model.apply(given, x, n, method="draw"))(pictures, noise)
    off = np.abs(np.asarray(drawn_ - truth))
    assert off.mean() < 0.02 and np.corrcoef(np.ravel(drawn_), np.ravel(truth))[0, 1] > 0.99


def test_a_frame_is_drawn_from_its_own_picture_and_one_noise():
    model, params = tiny()
    step = jax.jit(model.apply)
    frames = np.random.default_rng(0).random((1, 2, 16, 24, 3)).astype(np.float32)
    frames = np.concatenate([frames, frames[:, :1]], axis=1)
    carry, out = step(params, model.init_carry(1), frames)
    assert carry == () and out.depth.shape == (1, 3, 16, 24)
    depth = np.asarray(out.depth)
    np.testing.assert_allclose(depth[:, 2], depth[:, 0], atol=1e-6)
    assert np.abs(depth[:, 1] - depth[:, 0]).max() > 1e-3 and not np.asarray(out.metric).any()
    noise = jax.random.normal(jax.random.key(0), (1, 2, 3, 4))
    far = model.apply(params, jnp.asarray(frames[0, :1]), noise, method="draw")
    np.testing.assert_allclose(1 - far[0], depth[0, 0], atol=1e-5)  # nearer is larger in a stream
    _, odd = step(params, (), frames[:, :, :15, :20])  # any size
    assert odd.depth.shape == (1, 3, 15, 20)
    several, _ = tiny(members=3)
    _, mean = jax.jit(several.apply)(params, (), frames)
    assert np.abs(np.asarray(mean.depth) - depth).max() > 1e-3


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="all three are as many"):
        create_model("marigold-s", denoiser=dict(control=0))
    with pytest.raises(ValueError, match="8 times latents"):
        create_model("marigold-s", autoencoder=dict(image_size=[64, 64]))

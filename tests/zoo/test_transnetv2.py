"""TransNet V2: a stream gives the clip's answers, late by what it declares."""

import functools

import jax
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo.convert import ConvertError
from streamzoo.zoo.encode.transnetv2.convert import fold
from streamzoo.zoo.encode.transnetv2.model import (
    TransNetV2,
    TransNetV2Config,
    TransNetV2Stream,
    colour_histograms,
)

TINY = TransNetV2Config(
    image_size=(5, 6), filters=2, stages=2, dilations=(1, 2), hidden=8, window=5, compared=4
)


def frames(seed, batch, steps):
    return jax.random.uniform(jax.random.key(seed), (batch, steps, 5, 6, 3))


@functools.cache
def weights():
    params = jax.jit(TransNetV2(TINY).init)(jax.random.key(0), frames(0, 1, 2))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@functools.cache
def subject():
    return Subject.of(TransNetV2Stream(TINY), weights(), frames)


def test_latency_adds_up():
    assert TINY.latency == 2 * 2 * 2 + 2 == TransNetV2Stream(TINY).latency
    assert TransNetV2Config().latency == 3 * 2 * 8 + 50


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 13])
def test_a_stream_and_its_flush_are_the_clip(steps):
    x, s = frames(0, 2, steps), subject()
    want = jax.jit(TransNetV2(TINY).apply)(weights(), x)
    carry, out = s.run(s.init_carry(2), x, [4] * (steps // 4) + [1] * (steps % 4))
    _, last = jax.jit(s.flush)(carry)
    for name in ("cut", "many"):
        got = np.concatenate([getattr(out, name), getattr(last, name)], axis=1)
        assert not got[:, : TINY.latency].any()  # about frames before the first
        np.testing.assert_allclose(got[:, TINY.latency :], getattr(want, name), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law, how",
    [
        (contract.check_chunking, dict(steps=4, seeds=3, clips=())),
        (contract.check_scan, dict(steps=4)),
        (contract.check_causality, dict(steps=12)),  # an output is of the frame 10 before it
        (contract.check_fixed_point, {}),
        (contract.check_slots, dict(steps=4)),
        (contract.check_gaps, dict(steps=4, seeds=2)),
        (contract.check_latency, dict(steps=12)),
        (contract.check_peek, {}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_carry_law(law, how):
    law(subject(), **how)


def test_colour_histograms():
    pixels = np.asarray([[[0, 0, 0], [31, 0, 0], [32, 0, 0], [255, 255, 255]]], np.float32) / 255
    count = np.asarray(colour_histograms(pixels[None, None]))[0, 0]
    want = np.zeros(512)
    want[[0, 64, 511]] = np.asarray([2, 1, 1]) / 6**0.5
    np.testing.assert_allclose(count, want, atol=1e-6)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="5x6 pixels, got 6x6"):
        TransNetV2(TINY).apply(weights(), np.zeros((1, 2, 6, 6, 3), np.float32))
    with pytest.raises(ValueError, match="window 4"):
        TransNetV2Config(window=4)
    norm = {f"SDDCNN.0.DDCNN.0.bn.{p}": np.ones(4) for p in ("weight", "bias", "running_mean")}
    with pytest.raises(ConvertError, match="incomplete|running_var"):
        fold(norm | {"SDDCNN.0.DDCNN.0.bn.running_mean": np.ones(4)})

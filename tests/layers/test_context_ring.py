"""The ring of sound: features are the offline encoder's of the trailing window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import LAWS, check_causality
from streamzoo.layers.signal.context_ring import ContextRing, resampled
from streamzoo.layers.signal.ticks import subject


def encode(x):
    """Sees all of its window at once: [B, 24] -> [B, 6, 2]."""
    parts = x.reshape(x.shape[0], 6, 4)
    loud = jnp.sqrt(jnp.square(x).mean(axis=1))[:, None] + 0.1
    return jnp.stack([parts.sum(-1) / loud, parts[..., 0] * loud], axis=-1)


RING = ContextRing(encode, window=24, step=8, take=2, neighbours=1)


def noise(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps))


def streamed(audio, cuts):
    carry, at, found, times = RING.init_carry(1), 0, [], []
    for n in (*cuts, audio.shape[1] - sum(cuts)):
        carry, out = RING.apply({}, carry, audio[:, at : at + n])
        here = np.asarray(out.valid[0])
        found += list(np.asarray(out.x[0])[here])
        times += (at + np.asarray(out.at[0])[here]).tolist()
        at += n
    _, rest = RING.apply({}, carry, method="flush")
    return found, times, np.asarray(rest.x[0])[np.asarray(rest.valid[0])]


@pytest.mark.parametrize("cuts", [(), (8, 8, 8), (5, 17)])
def test_features_are_those_of_the_window_that_ends_there(cuts):
    audio = noise(0, 1, 43)
    found, times, rest = streamed(audio, cuts)
    assert times == [i for i in range(7, 43, 8) for _ in range(2)]
    silent = np.concatenate([np.zeros((1, 24), np.float32), audio], axis=1)
    for number, row in enumerate(found):
        end = 24 + (number // 2 + 1) * 8
        x = encode(jnp.asarray(silent[:, end - 24 : end]))[0]
        places = np.clip(4 + number % 2 + np.arange(-1, 2), 0, 5)  # the last feature has no next
        np.testing.assert_allclose(row, x[places], atol=1e-5)
    tail = np.pad(silent, ((0, 0), (0, 5)))[:, -24:]  # silence to the end of the last step
    np.testing.assert_allclose(rest[1, 1], encode(jnp.asarray(tail))[0, 5], atol=1e-5)


FAST = ("check_gaps", "check_latency")
MARKED = [law if law.__name__ in FAST else pytest.param(law, marks=pytest.mark.slow)
          for law in LAWS if law is not check_causality]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("law", MARKED)
def test_the_kit(law):
    law(subject(RING, {}, noise))


def test_the_figures_of_its_source():
    """8 s at 16 kHz; every 24 pictures of 25 a second the last 33 of 200 features, 5 each."""
    bands = lambda x: jnp.square(x.reshape(x.shape[0], 400, 320)).mean(-1, keepdims=True)
    encoder = lambda x: resampled(bands(x), 200)
    ring = ContextRing(encoder, window=128_000, step=15_360, take=33, neighbours=2)
    audio = noise(1, 1, 2 * 15_360)
    carry, out = ring.apply({}, ring.init_carry(1), audio)
    assert out.x.shape == (1, 66, 5, 1) and bool(out.valid.all())
    whole = encoder(jnp.pad(audio, ((0, 0), (128_000 - 2 * 15_360, 0))))[0]
    np.testing.assert_allclose(out.x[0, 33, :, 0], whole[165:170, 0], rtol=1e-4)
    np.testing.assert_allclose(out.x[0, 65, 3:, 0], whole[[199, 199], 0], rtol=1e-4)
    assert carry["waiting"].tolist() == [0]


def test_resampled_is_interpolation_by_line():
    x = noise(2, 1, 7)[..., None]
    want = np.interp(np.linspace(0, 6, 11), np.arange(7), np.asarray(x[0, :, 0]))
    np.testing.assert_allclose(resampled(x, 11)[0, :, 0], want, atol=1e-6)

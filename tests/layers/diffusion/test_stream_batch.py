"""The stream batch against StreamDiffusion's, against sequential denoising, and as a stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import Subject, verify_contract
from streamzoo.layers.diffusion.guidance import Guidance, guided
from streamzoo.layers.diffusion.stream_batch import StreamBatch, lcm_levels

from ..compare import close
from .goldens import golden, needs_goldens

VARIANTS = ("none", "self", "initialize", "full", "self2", "single")


def last(a):
    """[..., C, h, w] -> [..., h, w, C]."""
    return jnp.moveaxis(jnp.asarray(a), -3, -1)


def unet(z):
    """The golden's network, and how many rows it was given."""
    rows = []

    def network(x, times, conditioned):
        rows.append(x.shape[1])
        text = z["prompt"] if conditioned else z["negative"]
        told = z["unet_b"] * (times[:, None] / 1000) + (z["unet_c"] @ text.mean(0))[None]
        return jnp.tanh(x @ z["unet_A"].T + told[None, :, None, None])

    return network, rows


@needs_goldens
@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_streamdiffusions(name):
    z = golden("streamdiffusion_stream_batch")
    told = z["meta"]["variants"][name]
    levels = lcm_levels(tuple(told["t_index_list"]), told["num_inference_steps"])
    assert list(levels.times) == list(z[f"{name}:timesteps"])
    for ours, theirs in (("signal", "alpha"), ("noise", "beta"), ("out", "c_out")):
        close(theirs, getattr(levels, ours), z[f"{name}:{theirs}"], 1e-6)
    np.testing.assert_allclose(levels.skip, z[f"{name}:c_skip"], rtol=1e-6)
    law = Guidance(told["cfg_type"], told["guidance_scale"], told["delta"])
    batch = StreamBatch(levels, law)
    network, rows = unet(z)
    step = jax.jit(lambda carry, x: batch.step(network, carry, x))
    carry, frames = batch.init_carry(last(z[f"{name}:init_noise"])[None]), last(z["frames"])
    for i in range(len(frames)):
        carry, got = step(carry, frames[None, i : i + 1])
        if batch.latency:
            close(f"buffer {i}", carry.buffer[0], last(z[f"{name}:buffer"][i]), 2e-5)
        close(f"kept {i}", carry.kept[0], last(z[f"{name}:stock"][i]), 2e-5)
        assert bool(got.valid[0, 0]) is (i >= batch.latency)
        want = last(z[f"{name}:out"][i]) if i >= batch.latency else jnp.zeros((4, 4, 4))
        close(f"out {i}", got.x[0, 0], want, 2e-5)
    assert sum(rows) == law.calls(len(levels.times))


def toy(levels=(0, 16, 32, 45), law=Guidance()):
    """A stream batch on a linear network, and its noise of one stream."""
    batch = StreamBatch(lcm_levels(levels), law)
    noise = jax.random.normal(jax.random.key(0), (1, len(levels), 3))

    def network(x, times, conditioned):
        return jnp.tanh(x * 0.3 + times[None, :, None] / 1000 + conditioned)

    return batch, network, noise


def test_it_is_sequential_denoising_delayed():
    batch, network, noise = toy()
    frames = jax.random.normal(jax.random.key(1), (1, 9, 3))
    carry, got = batch.step(network, batch.init_carry(noise), frames)
    carry, tail = batch.flush(network, carry)
    got = np.concatenate([got.x, tail.x], axis=1)[0, batch.latency :]
    levels = batch.levels
    for frame, mine in zip(frames[0], got, strict=True):
        clean = frame
        for i, time in enumerate(levels.times):
            x = levels.signal[i] * clean + levels.noise[i] * noise[0, i]
            found = network(x[None, None], jnp.asarray([time]), True)[0, 0]
            clean = (x - levels.noise[i] * found) / levels.signal[i]
            clean = levels.out[i] * clean + levels.skip[i] * x
        close("frame", mine, clean, 1e-5)


def test_full_guidance_is_recovered_where_the_kept_noise_is_the_unconditional_answer():
    a, b = jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, -1.0])
    np.testing.assert_array_equal(guided(a, b, 1.0), a)
    np.testing.assert_array_equal(guided(a, b, 3.0), b + 3 * (a - b))
    # at one level, "initialize" asks for the unconditional answer there: it is full guidance
    outs = []
    for kind in ("initialize", "full"):
        batch, network, noise = toy((45,), Guidance(kind, 2.0))
        frames = jax.random.normal(jax.random.key(1), (1, 3, 3))
        outs.append(batch.step(network, batch.init_carry(noise), frames)[1].x)
    close("guided", outs[0], outs[1], 1e-6)


def test_what_does_not_fit_is_refused():
    batch, _, noise = toy()
    with pytest.raises(ValueError, match="noise for 3 levels, not 4"):
        batch.init_carry(noise[:, :3])
    with pytest.raises(ValueError, match="should rise within 0 .. 49"):
        lcm_levels((3, 3))
    with pytest.raises(ValueError, match="'cfg' is not one of none, self"):
        Guidance("cfg")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "initialize"])
def test_it_is_a_stream(kind):
    batch, network, noise = toy((0, 20, 45), Guidance(kind, 1.5))
    verify_contract(
        Subject(
            lambda n: batch.init_carry(jnp.repeat(noise, n, axis=0)),
            lambda carry, x, valid: batch.step(network, carry, x, valid),
            lambda seed, n, steps: jax.random.normal(jax.random.key(seed), (n, steps, 3)),
            batch.latency,
            lambda carry: batch.flush(network, carry),
        )
    )

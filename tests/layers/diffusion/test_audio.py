"""Sound as a condition against Live Avatar's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.diffusion.audio import CausalAudioEncoder, buckets, resample
from streamzoo.layers.signal.ticks import verify_signal

from ..compare import close
from .goldens import golden, needs_goldens

ENCODER = CausalAudioEncoder(dim=8, layers=5, out_dim=16, heads=2)


def official(z):
    """The golden's weights as our parameters."""
    convs = {}
    for ours, theirs in ((0, "conv1_local"), (2, "conv2"), (4, "conv3")):
        w = {k: z[f"w:encoder.{theirs}.conv.{k}"] for k in ("weight", "bias")}
        kernel = {"kernel": w["weight"].transpose(2, 1, 0), "bias": w["bias"]}
        convs[f"layers_{ours}"] = {"conv": kernel}
    padding = z["w:encoder.padding_tokens"].reshape(-1)
    return {"params": {"body": convs, "weights": z["w:weights"].reshape(-1), "padding": padding}}


@pytest.mark.slow
@needs_goldens
def test_the_encoder_is_the_official_one():
    z = golden("liveavatar_audio_hooks")
    x = jnp.asarray(z["x"]).transpose(0, 3, 1, 2)
    carry, out = ENCODER.apply(official(z), ENCODER.init_carry(1), x)
    got = np.asarray(out.x)[np.asarray(out.valid)]
    close("tokens", got, z["y"][0], 1e-5)
    assert (ENCODER.emitted(25), len(got)) == (7, 7)
    assert np.asarray(out.at)[0, :7].tolist() == list(range(0, 25, 4))


@needs_goldens
def test_rates_are_changed_as_officially():
    z = golden("liveavatar_audio_hooks")
    close("50 to 30", resample(z["interp_in"], 50, 30), z["interp_50_to_30"], 1e-5)
    short = resample(z["interp_in"], 50, 25, 20)
    close("20 frames", short, z["interp_50_to_25_len20"], 1e-5)


@needs_goldens
@pytest.mark.parametrize("name", ["fps16_b12_m0", "fps16_b12_m2", "fps25_b12_m0", "fps30_b12_m1"])
def test_windows_per_frame_are_the_official_ones(name):
    z = golden("liveavatar_audio_hooks")
    fps, block, neighbours = (int(part.lstrip("fpsbm")) for part in name.split("_"))
    got = buckets(z["audio_embed"], 30, fps, block, neighbours)
    np.testing.assert_array_equal(got, z[f"bucket_{name}"])
    ends = 40 / 30 * fps
    assert (got[int(ends) + 1 :] == 0).all() and (got[0] != 0).any()
    with pytest.raises(ValueError, match="more than 30 features"):
        buckets(z["audio_embed"], 30, 60, block)


@pytest.mark.slow
def test_the_encoder_is_a_stream():
    some = lambda seed, batch, steps: jax.random.normal(jax.random.key(seed), (batch, steps, 5, 8))
    variables = ENCODER.init(jax.random.key(0), ENCODER.init_carry(1), some(0, 1, 5))
    verify_signal(ENCODER, variables, some)

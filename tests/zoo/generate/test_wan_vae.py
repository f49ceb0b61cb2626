"""Wan's autoencoder: equal to diffusers' latent by latent, as a whole, and as a stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.convert import convert, detect_converter
from streamzoo.zoo.generate.pictures import grouped, latent_frames
from streamzoo.zoo.generate.wan_vae.model import WanVAE, WanVAEConfig

from ...layers.compare import close
from .goldens import channels_last, golden, needs_goldens, weights


def official():
    """(the golden's arrays, our module, its parameters)."""
    z = golden("wan_vae_stream")
    tensors = weights(z)
    plan = detect_converter(tensors).plan(tensors, None)
    model = WanVAE(WanVAEConfig(image_size=(16, 16), **plan.overrides))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1, 2, 2, 4)))
    )
    return z, model, convert(tensors, plan.rules, template=shapes)


@needs_goldens
def test_latents_become_the_official_frames_one_by_one_and_together():
    z, model, params = official()
    latents, want = channels_last(z["z"]), channels_last(z["y"])
    step = jax.jit(model.apply)
    carry, pictures = model.init_carry(1), []
    for t in range(5):
        carry, out = step(params, carry, latents[:, t : t + 1])
        pictures.append(out.video())
    assert [len(p) for p in pictures] == z["meta"]["frames_per_latent"]
    close("frames", np.concatenate(pictures), want[0], 1e-5)
    _, out = step(params, model.init_carry(1), latents)
    close("together", out.video(), want[0], 1e-5)
    # what the convolutions saw last, in the official order
    ours = [carry["tails"][name] for name in OFFICIAL_ORDER]
    assert len(ours) == len(carry["tails"]) == 24
    for i, tail in enumerate(ours):
        close(f"cache {i}", tail, channels_last(z[f"cache{i}"]), 1e-5)


RESIDUAL = [f"{at}/{conv}" for at in ("first", "second") for conv in ("conv1", "conv2")]
LEVELS = [
    [f"level{i}_{j}/{conv}" for j in (0, 1) for conv in ("conv1", "conv2")]
    + [f"up{i}/time"] * (i < 2)
    for i in range(4)
]
OFFICIAL_ORDER = ["in", *(f"middle/{n}" for n in RESIDUAL), *sum(LEVELS, []), "out"]


@needs_goldens
def test_frames_become_the_official_latents_group_by_group():
    z, model, params = official()
    groups = grouped(channels_last(z["x"]))
    encode = jax.jit(lambda *a: model.apply(*a, method="encode"))
    _, together = encode(params, model.init_encoder_carry(1), groups)
    close("latents", together, channels_last(z["z"]), 1e-5)
    carry, first = encode(params, model.init_encoder_carry(1), groups[:, :3])
    _, rest = encode(params, carry, groups[:, 3:])
    close("in two parts", np.concatenate([first, rest], axis=1), together, 1e-6)


def test_latents_are_scaled_as_the_checkpoint_says():
    model = WanVAE(WanVAEConfig((16, 16), latent=2, mean=(1.0, -1.0), std=(2.0, 0.5)))
    raw = jax.random.normal(jax.random.key(0), (3, 2, 2, 2))
    scaled = model.apply({}, raw, method="scaled")
    close("scaled", scaled, (raw - jnp.asarray([1.0, -1.0])) / jnp.asarray([2.0, 0.5]), 1e-6)
    close("back", model.apply({}, scaled, method="unscaled"), raw, 1e-6)


def test_sizes_that_do_not_fit_are_refused():
    assert [latent_frames(n) for n in (1, 5, 81)] == [1, 2, 21]
    with pytest.raises(ValueError, match="80 frames are not 1 [+] a multiple of 4; 81 would do"):
        latent_frames(80)
    with pytest.raises(ValueError, match="8 does not divide"):
        WanVAEConfig(image_size=(20, 16))
    with pytest.raises(ValueError, match="8 divides both sides"):
        WanVAE(WanVAEConfig()).init_carry(1, frame_shape=(33, 64))

"""Autoencoders of generated video by the carry law: decoders, and the way back."""

import functools

import jax
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject, verify_contract
from streamzoo.zoo import create_model, model_card

from ..drawn import drawn

TINY = {
    "wan-vae": dict(image_size=(8, 8), dim=4, latent=2, mult=(1, 2, 2), blocks=1,
                    over_time=(True, True)),
    "taehv": dict(image_size=(16, 16), latent=2, widths=(4, 4, 4, 4), encoder_width=4),
    "taef2": dict(image_size=(16, 16), latent=4, width=4),
}  # fmt: skip
# TAEF2 takes frames and gives frames: both halves in one
STREAMS = [(n, way) for n in ("wan-vae", "taehv") for way in ("decode", "encode")]
STREAMS.append(("taef2", "decode"))
FAST = [("wan-vae", "decode"), ("taehv", "decode"), ("taef2", "decode")]


@functools.cache
def subject(name, way):
    model, params = create_model(name, **TINY[name]), drawn(name, 0.3, **TINY[name])
    c = model.config
    frames = (*c.image_size, 3)
    if way == "encode":
        shape = (4, *frames)  # a latent's group of frames
        step = lambda carry, x, valid: model.apply(params, carry, x, valid, method="encode")
        start = model.init_encoder_carry
    else:
        shape = frames if name == "taef2" else (*c.grid, c.latent)
        step = lambda carry, x, valid: model.apply(params, carry, x, valid)
        start = model.init_carry

    def given(seed, batch, steps):
        return jax.random.uniform(jax.random.key(seed), (batch, steps, *shape))

    # drawn weights make values of up to a thousand here, and a batch rounds them its own way
    return Subject(start, step, given, atol=3e-3 if name == "taef2" else 1e-4)


@pytest.mark.parametrize("name, way", FAST)
def test_streams_of_a_batch_are_alone(name, way):
    contract.check_slots(subject(name, way))


@pytest.mark.slow
@pytest.mark.parametrize("name, way", STREAMS)
def test_autoencoder_is_a_stream(name, way):
    verify_contract(subject(name, way))


def test_cards_say_so():
    for name in TINY:
        card = model_card(name)
        assert card.streaming and card.latency == 0 and card.task == "generate"

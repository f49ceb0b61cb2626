"""Whisper's encoder over a ring: features are the offline encoder's of the trailing window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.speech.whisper.context import ContextConfig, WhisperContext

SMALL = dict(dim=8, heads=2, encoder=1, decoder=1, bands=8, vocabulary=9, end=8, window=15,
             chunk=15, room=4)  # fmt: skip
RING = dict(ring=12, frames=6, step=4, take=3, neighbours=1)


def sound(samples, seed=0):
    return np.random.default_rng(seed).standard_normal((1, samples)).astype("f4")


@pytest.fixture(scope="module")
def made():
    model = WhisperContext(ContextConfig(**SMALL, **RING))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    draw = np.random.default_rng(0)
    return model, jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape).astype("f4"), shapes)


def streamed(model, params, audio, cuts):
    step, carry, got = jax.jit(model.apply), model.init_carry(1), []
    for a, b in zip((0, *cuts), (*cuts, audio.shape[1]), strict=True):
        carry, out = step(params, carry, audio[:, a:b])
        got.append(np.asarray(out.x[0])[np.asarray(out.valid[0])])
    rest = jax.jit(lambda c: model.apply(params, c, method="flush"))(carry)[1]
    return np.concatenate(got), np.asarray(rest.x[0])[np.asarray(rest.valid[0])]


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [(), (1, 1279, 1281, 4000)])
def test_features_are_the_offline_encoders_of_the_window_that_ends_there(made, cuts):
    model, params = made
    audio, step = sound(4500), 4 * 320
    got, rest = streamed(model, params, audio, cuts)
    silent = np.pad(audio, ((0, 0), (12 * 320, step)))
    features = jax.jit(lambda a: model.apply(params, a, method="features"))
    want = []
    for end in range(step, 4500 + step, step):
        x = np.asarray(features(silent[:, end : end + 12 * 320])[0])
        want += [x[np.clip(np.arange(i - 1, i + 2), 0, 5)] for i in (3, 4, 5)]
    np.testing.assert_allclose(np.concatenate([got, rest]), want, atol=2e-5)
    assert len(got) == model.emitted(4500) == 9 and len(want) == model.length(4500) == 12


def test_a_piece_by_itself_has_other_features(made):
    """What the ring is for: the same piece, with seconds before it or with silence."""
    model, params = made
    audio = sound(3 * 1280)
    alone = audio.copy()
    alone[:, : 2 * 1280] = 0
    (with_, _), (without, _) = (streamed(model, params, a, ()) for a in (audio, alone))
    assert np.abs(with_[-3:] - without[-3:]).max() > 0.1


@pytest.mark.slow
def test_features_are_transformers(tmp_path):
    """Its encoder over the same trailing window, on random weights in the published layout."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=30, num_mel_bins=80, encoder_layers=2, decoder_layers=1, d_model=32,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, max_source_positions=50, max_target_positions=10,
        decoder_start_token_id=1, eos_token_id=2, bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    theirs = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes))
    theirs.eval().save_pretrained(tmp_path)
    plain, params = streamzoo.load(tmp_path)
    from dataclasses import asdict

    fields = asdict(plain.config) | dict(ring=50, frames=25, step=20, take=25, neighbours=0)
    model = WhisperContext(ContextConfig(**fields))
    audio = sound(2 * 20 * 320, 3)
    got, _ = streamed(model, params, audio, (777,))
    window = np.pad(audio[0], (10 * 320, 0))
    extract = transformers.WhisperFeatureExtractor(chunk_length=1)
    mel = extract(window, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        x = theirs.model.encoder(mel).last_hidden_state[0].numpy()
    place = np.linspace(0, 49, 25)
    want = np.stack([np.interp(place, np.arange(50), column) for column in x.T], axis=1)
    np.testing.assert_allclose(got[25:, 0], want, atol=2e-4)


def test_its_name():
    model, card = create_model("whisper-context-tiny"), model_card("whisper-context-tiny")
    assert card.latency == model.latency == 15_359  # 24 pictures of 25 a second
    c = model.config
    assert c.ring * 320 == 128_000 and c.step * 320 == 15_360 and c.take == 33
    with pytest.raises(ValueError, match="ring 99, window 15"):
        ContextConfig(**SMALL | RING | {"ring": 99})

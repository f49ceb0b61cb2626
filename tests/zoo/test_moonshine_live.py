"""Moonshine as a stream: the clip of its hops, the offline model where it sees all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.signal.running import RunningNorm
from streamzoo.layers.signal.ticks import verify_signal
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.speech.moonshine.live import MoonshineLive
from streamzoo.zoo.speech.moonshine.model import Moonshine, MoonshineConfig
from streamzoo.zoo.speech.moonshine.tokens import Tokens
from streamzoo.zoo.speech.moonshine.transcribe import Transcriber
from streamzoo.zoo.speech.written import best_tokens

SIZES = dict(dim=24, hidden=48, heads=2, encoder=2, decoder=2, turned=6, vocabulary=30)


def made(**looks):
    """(a small stream, its variables)."""
    model = MoonshineLive(MoonshineConfig(**SIZES, **looks))
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    return model, jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )


def sound(seed, batch, steps):
    return 0.3 * jax.random.normal(jax.random.key(seed), (batch, steps))


def streamed(model, variables, audio, lengths):
    step, carry, at, parts = jax.jit(model.apply), model.init_carry(audio.shape[0]), 0, []
    for n in (*lengths, audio.shape[1] - sum(lengths)):
        carry, out = step(variables, carry, audio[:, at : at + n])
        at += n
        parts.append(out)
        got = sum(int(p.valid[0].sum()) for p in parts)
        assert got == model.emitted(at)
    parts.append(jax.jit(lambda c: model.apply(variables, c, method="flush"))(carry)[1])
    return np.concatenate([np.asarray(p.x[0])[np.asarray(p.valid[0])] for p in parts])


@pytest.mark.slow
@pytest.mark.parametrize(
    "looks", [dict(hop=3, ahead=2, past=4), dict(hop=1, ahead=3, past=50), dict(hop=4, ahead=0)]
)
def test_a_stream_is_its_clip(looks):
    model, variables = made(**looks)
    audio = sound(1, 1, 9000)
    assert model.latency == (looks["hop"] + looks["ahead"] - 1) * 384
    want, seen = jax.jit(lambda a: model.apply(variables, a, method="encode"))(audio)
    got = streamed(model, variables, audio, [1300, 4, 2600])
    assert len(got) == int(seen.sum()) == model.length(9000)
    np.testing.assert_allclose(got, want[0], atol=2e-5)


@pytest.mark.slow
def test_a_clip_beside_a_longer_one_is_as_alone():
    model, variables = made(hop=3, ahead=2)
    audio = sound(2, 2, 7000)
    encode = jax.jit(lambda a, n: model.apply(variables, a, n, method="encode"))
    both, seen = encode(audio.at[0, 4000:].set(0.7), np.array([4000, 7000]))
    alone, _ = encode(audio[:1, :4000], np.array([4000]))
    assert int(seen[0].sum()) == alone.shape[1]
    np.testing.assert_allclose(both[0, : alone.shape[1]], alone[0], atol=2e-5)
    assert not np.asarray(both[0, alone.shape[1] :]).any()


@pytest.mark.slow
def test_one_hop_that_sees_all_is_the_offline_encoder_with_its_last_norm():
    """The same parameters; the norm alone differs, and at the last frame it does not."""
    model, variables = made(hop=40, ahead=0)
    offline = Moonshine(model.config)
    audio = sound(3, 1, 6000)
    x = jax.random.normal(jax.random.key(4), (1, 50, 6)) + 2
    norm = RunningNorm()
    _, out = norm(norm.init_carry(1), x)
    whole = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(out.x[0, -1], whole[0, -1], atol=1e-5)
    # a sound that is the same all the time has the same mean and variance all the time
    steady = jnp.tile(audio[:, :64], (1, 94))
    got, _ = model.apply(variables, steady, method="encode")
    want, _ = offline.apply(variables, steady, method="encode")
    np.testing.assert_allclose(got, want, atol=5e-4)


@pytest.mark.slow
def test_the_running_norm_forgets_nothing_and_gaps_leave_no_trace():
    norm = RunningNorm()
    x = 0.2 * jax.random.normal(jax.random.key(5), (2, 40, 5)) + 3
    _, whole = norm(norm.init_carry(2), x)
    carry, parts = norm.init_carry(2), []
    for a, b in ((0, 1), (1, 17), (17, 40)):
        carry, out = norm(carry, x[:, a:b])
        parts.append(out.x)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole.x, atol=2e-4)
    valid = jnp.arange(40)[None] % 3 != jnp.arange(2)[:, None]
    _, gaps = norm(norm.init_carry(2), jnp.where(valid[..., None], x, jnp.nan), valid)
    for row in range(2):
        _, dense = norm(norm.init_carry(1), x[row : row + 1][:, np.asarray(valid[row])])
        np.testing.assert_allclose(gaps.x[row][np.asarray(valid[row])], dense.x[0], atol=2e-4)


@pytest.mark.slow
def test_the_law():
    model, variables = made(hop=2, ahead=1, past=3)
    verify_signal(model, variables, sound)


def test_names():
    card, model = model_card("moonshine-live-base"), create_model("moonshine-live-base")
    assert card.latency == model.latency == 19 * 384
    assert model.inputs == ("audio",) and model_card("moonshine-base").streaming is False


@pytest.mark.slow
def test_an_utterance_is_written_as_its_clip():
    """What pads it to the next program's length is not heard."""
    model, variables = made(hop=3, ahead=2)
    table = variables["params"]["embed"]
    table["embedding"] = table["embedding"].at[model.config.end].set(0)  # a text that goes on
    write = Transcriber(model, variables, Tokens([bytes([65 + n]) for n in range(30)]))
    audio = np.asarray(sound(6, 1, 14_000))
    got = write(audio[0])
    limit = np.asarray([6], np.int32)
    out, count = best_tokens(model, variables, audio, np.array([14_000]), limit, 20)
    assert got.tokens == np.asarray(out)[0, : int(count[0])].tolist() and len(got.tokens) == 6
    assert got.text == "".join(chr(65 + n) for n in got.tokens if n > 2)

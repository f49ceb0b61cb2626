"""FlowVoice: states are a stream, the next token is drawn from what may follow, not its mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.layers.contract import check_chunking, check_gaps
from streamzoo.layers.signal.ticks import subject
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.speech.flowvoice.model import SIZE, FlowVoice, FlowVoiceConfig

MODEL = FlowVoice(FlowVoiceConfig(bands=4, dim=16, heads=2, depth=1, before=2, hidden=32,
                                  head_depth=1))  # fmt: skip


def noise(seed, batch, steps):
    return 0.3 * jax.random.normal(jax.random.key(seed), (batch, steps))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), MODEL.init_carry(1), noise(0, 1, 1))
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda p: draw.normal(0, 0.4, p.shape).astype("f4"), shapes)


def test_states_of_a_stream_are_those_of_the_clip(params):
    audio, step = noise(0, 1, 5 * SIZE + 7), jax.jit(MODEL.apply)
    _, whole = step(params, MODEL.init_carry(1), audio)
    carry, at, got = MODEL.init_carry(1), 0, []
    for n in (1, SIZE - 1, 900, 901, audio.shape[1] - 2 * SIZE - 1161):
        carry, out = step(params, carry, audio[:, at : at + n])
        got.append(np.asarray(out.x[0])[np.asarray(out.valid[0])])
        at += n
    assert at == audio.shape[1]
    want = np.asarray(whole.x[0])[np.asarray(whole.valid[0])]
    assert len(want) == 5 == MODEL.emitted(audio.shape[1])
    np.testing.assert_allclose(np.concatenate(got), want, atol=1e-5)
    np.testing.assert_allclose(carry["state"][0], want[-1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("law", [check_chunking, check_gaps])
def test_the_kit(params, law):
    law(subject(MODEL, params, lambda seed, batch, steps: noise(seed, batch, steps)), steps=1400)


@pytest.mark.slow
def test_a_drawn_token_is_the_heads_and_is_heard(params):
    audio, key = noise(2, 2, 3 * SIZE), jax.random.key(4)
    carry, _ = MODEL.apply(params, MODEL.init_carry(2), audio)
    after, token = MODEL.apply(params, carry, key, 4, method="draw")
    head = {"params": params["params"]["head"]}
    want = (
        MODEL.bind(params)
        .head.clone(parent=None)
        .apply(head, carry["state"], key, 4, method="sample")
    )
    np.testing.assert_allclose(np.asarray(token), np.asarray(want), atol=1e-6)
    heard, out = MODEL.apply(params, carry, token[:, None], method="hear")
    np.testing.assert_allclose(after["state"], out.x[:, 0], atol=1e-6)
    assert np.abs(np.asarray(after["state"] - carry["state"])).max() > 0.1
    with pytest.raises(ValueError, match="at least one step"):
        MODEL.apply(params, carry, key, 0, method="draw")


LOUD, QUIET, MIDDLE = 1.5, -1.5, 0.0


def tokens_of(rng, count):
    """Middle tokens, and behind each a loud or a quiet one that comes twice: 6 tokens a sound."""
    sides = rng.choice([LOUD, QUIET], (count, 2))
    rows = np.stack([np.zeros((count, 2)), sides, sides], axis=2).reshape(count, 6)
    return (rows[..., None] + 0.1 * rng.standard_normal((count, 6, 4))).astype(np.float32)


@pytest.mark.slow
def test_what_may_follow_is_drawn_and_what_was_drawn_is_gone_on_with():
    rng = np.random.default_rng(0)
    params = jax.jit(MODEL.init)(jax.random.key(0), MODEL.init_carry(1), noise(0, 1, 1))
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, 700))

    @jax.jit
    def step(params, state, tokens, key):
        loss = lambda p: MODEL.apply(p, tokens, key, method="loss").mean()
        change, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    state = optimiser.init(params)
    for number in range(700):
        params, state = step(params, state, tokens_of(rng, 128), jax.random.key(number))
    heard = tokens_of(rng, 400)[:, :1]  # a middle token
    carry, _ = MODEL.apply(params, MODEL.init_carry(400), jnp.asarray(heard), method="hear")
    draw, drawn = jax.jit(lambda c, k: MODEL.apply(params, c, k, 12, method="draw")), []
    for number in range(2):
        carry, token = draw(carry, jax.random.key(1000 + number))
        drawn.append(np.asarray(token).mean(-1))
    first, again = drawn
    assert (np.abs(np.abs(first) - LOUD) < 0.6).mean() > 0.9  # loud or quiet, hardly their mean
    assert 0.35 < (first > 0).mean() < 0.65
    assert (np.sign(first) == np.sign(again)).mean() > 0.9  # it heard what it drew


def test_its_name():
    model, card = create_model("flowvoice-s"), model_card("flowvoice-s")
    assert card.latency == model.latency == 0 and model.inputs == ("audio",)
    audio = np.zeros((1, 2 * SIZE + 5), np.float32)
    assert model.bind({}).tokens(audio).shape == (1, 2, 40)

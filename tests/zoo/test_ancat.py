"""ANCAT: a stream says what its clip says, a frame comes with the last that it sees, and the price
of looking ahead is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.train.alignment import ctc_loss
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.speech.ancat.model import ANCAT, ANCATConfig, priced
from streamzoo.zoo.speech.fastconformer.pieces import Pieces
from streamzoo.zoo.speech.fastconformer.recognise import Recogniser
from streamzoo.zoo.speech.fastconformer.talk import Telling

from .small_conformer import PIECES, SIZES

SMALL = dict(SIZES, most_ahead=2, before=6)
SECONDS = 1.2


def sound(seed, seconds=SECONDS):
    return np.random.default_rng(seed).standard_normal((1, int(16_000 * seconds))).astype("f4")


@pytest.fixture(scope="module")
def made():
    model = ANCAT(ANCATConfig(**SMALL))
    shapes = jax.eval_shape(model.init, jax.random.key(1), model.init_carry(1), jnp.zeros((1, 1)))
    draw = np.random.default_rng(3)
    params = jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape).astype("f4"), shapes)
    for name in ("layers_10", "layers_11"):  # frames that want nothing, and all that they can have
        params["params"]["net"][name]["wants"]["kernel"] *= 6
    return model, params


def streamed(model, params, audio, cuts):
    """(features, after how many samples each came)."""
    step, carry, got, when = jax.jit(model.apply), model.init_carry(1), [], []
    for a, b in zip((0, *cuts), (*cuts, audio.shape[1]), strict=True):
        carry, out = step(params, carry, audio[:, a:b])
        here = np.asarray(out.valid[0])
        got.append(np.asarray(out.x[0])[here])
        when += (a + np.asarray(out.at[0])[here]).tolist()
    rest = jax.jit(lambda c: model.apply(params, c, method="flush"))(carry)[1]
    return np.concatenate([*got, np.asarray(rest.x[0])[np.asarray(rest.valid[0])]]), when


@pytest.mark.slow
def test_a_stream_is_its_clip_and_frames_come_when_what_they_see_has(made):
    model, params = made
    audio = sound(0)
    learn = jax.jit(lambda p, a: model.apply(p, a, soft=False, method="learn"))
    want, ahead = learn(params, audio)
    assert want.shape[1] == model.length(audio.shape[1]) and len(set(ahead.ravel().tolist())) > 2
    cuts = (1, 3000, 9000)
    got, when = streamed(model, params, audio, cuts)
    np.testing.assert_allclose(got, want[0], atol=2e-5)
    # a frame of each block comes with the last of those it sees, and not before one in front
    never, due = want.shape[1], np.arange(want.shape[1])
    for looked in np.asarray(ahead[0]).astype(int):
        seen = np.minimum(np.arange(never) + looked, never)  # one behind the last never comes
        due = np.maximum.accumulate(np.append(due, never)[seen])
    samples = [when_of(frame) for frame in due if frame < never]
    assert when == [n for n in samples if n < audio.shape[1]] and len(when) > 3
    assert max(np.asarray(when) - 1280 * np.arange(len(when))) <= model.latency + 1280


def when_of(frame):
    """The sample that completes a frame of the subsampling."""
    plain = ANCAT(ANCATConfig(**SMALL | {"most_ahead": 0}))
    return next(n for n in range(1280 * frame, 10**6) if plain.emitted(n + 1) > frame)


@pytest.mark.slow
def test_words_of_it_are_heard_by_what_hears_a_fastconformer(made):
    model, params = made
    audio = sound(1, 2.0)[0]
    telling = Telling(model, params, Pieces(PIECES).words, every=0.4)
    for at in range(0, len(audio), 5000):
        telling.push(audio[at : at + 5000])
    said = telling.flush()
    own = Recogniser(model)
    carry, first = own(params, own.init_carry(1), audio[None])
    tokens = [t for t, _ in first.of()] + [t for t, _ in own.flush(params, carry)[1].of()]
    assert [w.text for w in said.words] == [w for w, _, _ in Pieces(PIECES).words(tokens)]
    assert said.words


@pytest.mark.slow
def test_a_price_on_look_ahead_makes_it_less():
    """A recogniser of two noises that differ in what comes behind them."""
    model = ANCAT(ANCATConfig(**SMALL | {"vocabulary": 2, "layers": 0, "depth": 1}))
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((8, 12_800)).astype("f4")
    which = rng.integers(0, 2, 8)
    audio[:, 6400:] *= np.where(which, 1.5, 0.1)[:, None]
    tokens, lengths = jnp.asarray(which[:, None]), jnp.ones(8, jnp.int32)
    first = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    found = []
    for price in (0.0, 1.0):
        optimiser = optax.adam(1e-2)

        @jax.jit
        def step(params, state, price=price, optimiser=optimiser):
            def loss(params):
                x, ahead = model.apply(params, audio, method="learn")
                logits = model.apply(params, x, method="ctc")
                frames = jnp.full(8, x.shape[1], jnp.int32)
                each = ctc_loss(logits, frames, tokens, lengths, model.config.blank)
                return priced(each.mean(), ahead, price), (each.mean(), ahead.mean())

            (_, told), change = jax.value_and_grad(loss, has_aux=True)(params)
            change, state = optimiser.update(change, state)
            return optax.apply_updates(params, change), state, told

        params, state, told = first, optimiser.init(first), ()
        for _ in range(60):
            params, state, told = step(params, state)
        found.append([float(t) for t in told])
    (free, far), (priced_loss, near) = found
    assert near < 0.5 * far and free < priced_loss + 0.5


def test_its_name():
    model, card = create_model("ancat-s"), model_card("ancat-s")
    assert card.latency == model.latency == 1375 + 4 * 2 * 1280 and card.task == "speech"
    assert create_model("ancat-s", most_ahead=0).latency == 1375

"""Words while they are said: final ones stay, however the sound is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.speech import agreed
from streamzoo.zoo.speech.agreed import Agreeing, common
from streamzoo.zoo.speech.moonshine.live import MoonshineLive
from streamzoo.zoo.speech.moonshine.model import MoonshineConfig

SIZES = dict(dim=16, hidden=32, heads=2, encoder=1, decoder=1, turned=4, vocabulary=12)


@pytest.fixture(scope="module")
def made():
    model = MoonshineLive(MoonshineConfig(**SIZES, hop=3, ahead=3, past=40))
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    # large weights, so that words change with what is heard, and a text that goes on
    variables = jax.tree.map(
        lambda p: p + 0.7 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )
    table = variables["params"]["embed"]
    table["embedding"] = table["embedding"].at[model.config.end].set(0)
    return model, variables


AUDIO = np.random.default_rng(1).standard_normal(24_000).astype(np.float32) * np.repeat(
    [0.1, 0.9, 0.3, 1.0, 0.2, 0.6], 4000
).astype(np.float32)


def test_final_words_stay_however_the_sound_is_cut(made):
    runs = []
    for cuts in ((), (1, 700, 701, 9000, 20_000)):
        words, before = Agreeing(*made, every=0.1, longest=2.0), ()
        for a, b in zip((0, *cuts), (*cuts, len(AUDIO)), strict=True):
            for start in range(a, b, 1600 if cuts else b):
                said = words.push(AUDIO[start : min(b, start + (1600 if cuts else b))])
                assert said.final[: len(before)] == before and len(said.at) == len(said.final)
                before = said.final
        end = words.flush()
        assert end.final[: len(before)] == before and end.provisional == ()
        assert list(end.at) == sorted(end.at) and end.at[-1] <= len(AUDIO) / 16_000
        runs.append(end)
    assert runs[0] == runs[1] and len(runs[0].final) > 2


def test_only_what_two_texts_agree_on_is_final(made, monkeypatch):
    texts = iter([(5, 6, 7), (5, 6, 8), (5, 6, 8, 9), (5, 6, 8, 4)])
    words = Agreeing(*made, every=0.1, longest=2.0)
    monkeypatch.setattr(Agreeing, "_write", lambda self: next(texts))
    assert words.push(AUDIO[:1600]) == ((), (), (5, 6, 7))
    assert words.push(AUDIO[:1600]) == ((5, 6), (0.2, 0.2), (8,))
    assert words.push(AUDIO[:1600]) == ((5, 6, 8), (0.2, 0.2, 0.3), (9,))
    assert words.flush() == ((5, 6, 8, 4), (0.2, 0.2, 0.3, 0.3), ())


def test_at_the_end_it_is_the_text_of_the_clip_behind_what_was_final(made):
    model, params = made
    words = Agreeing(model, params, every=1.5, longest=2.0)
    words.push(AUDIO)
    got = words.flush().final
    x, seen = jax.jit(lambda a: model.apply(params, a, method="encode"))(AUDIO[None])
    limit = np.asarray([int(np.ceil(6.5 * 1.5))], np.int32)
    out, count = agreed.best_of(model, params, x, seen, limit, 13)
    assert got == tuple(np.asarray(out)[0, : int(count[0])].tolist())


def test_what_is_refused(made):
    with pytest.raises(ValueError, match="0 < every"):
        Agreeing(*made, every=0)
    words = Agreeing(*made, every=0.1, longest=0.5)
    with pytest.raises(ValueError, match="begin anew where nobody speaks"):
        words.push(np.zeros(8001, np.float32))
    with pytest.raises(ValueError, match="one channel"):
        words.push(np.zeros((2, 5), np.float32))
    assert words.flush() == ((), (), ()) or words.flush().final == ()


def test_common():
    assert [common((1, 2), (1, 3)), common((), (1,)), common((1, 2), (1, 2, 3))] == [1, 0, 2]

"""Words while they are said: final ones stay, however the sound is cut."""

import jax
import numpy as np
import pytest

from streamzoo.zoo.speech import agreed
from streamzoo.zoo.speech.agreed import Again, Agreeing, common
from streamzoo.zoo.speech.moonshine.tokens import Tokens
from streamzoo.zoo.speech.saying import Saying

from .small_speech import AUDIO, PIECES, small


@pytest.fixture(scope="module")
def made():
    return small()


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


def test_an_utterance_traces_nothing_anew(made, monkeypatch):
    """What JAX keeps of a trace would add up, utterance by utterance."""
    kinds = [(kind, 0.1) for kind in (Agreeing, Again)]
    for kind, every in kinds:
        kind(*made, every=every, longest=2.0)
    monkeypatch.setattr(agreed.jax, "eval_shape", None)
    for kind, every in kinds:
        kind(*made, every=every, longest=2.0)


def test_common():
    assert [common((1, 2), (1, 3)), common((), (1,)), common((1, 2), (1, 2, 3))] == [1, 0, 2]


@pytest.mark.slow
def test_an_offline_encoder_says_the_same_as_the_clip_of_a_stream(made, monkeypatch):
    """All of an utterance again for every text; a MoonshineLive has a clip to compare with."""
    monkeypatch.setattr(Again, "SIZES", (1,))
    again, live = Again(*made, every=0.5, longest=2.0), Agreeing(*made, every=0.5, longest=2.0)
    for start in range(0, len(AUDIO), 5000):
        again.push(AUDIO[start : start + 5000])
        live.push(AUDIO[start : start + 5000])
    assert again.said().final == live.said().final and again.sizes == [16_000, 32_000]
    assert again.flush() == live.flush()


def test_words_are_final_when_another_has_begun_and_keep_their_times(made):
    model, params = made
    runs = []
    for size in (1600, 700, 9000):
        saying = Saying(Agreeing(model, params, every=0.1, longest=2.0), Tokens(PIECES).words)
        before = ()
        for start in range(0, len(AUDIO), size):
            said = saying.push(AUDIO[start : start + size])
            assert said.words[: len(before)] == before  # the same words at the same times
            tokens = saying.tokens.said()
            groups = Tokens(PIECES).words(tokens.final)
            assert [w.text for w in said.words] == [g[0] for g in groups[:-1]]
            before = said.words
        end = saying.flush()
        assert end.words[: len(before)] == before and end.maybe == "" and len(before) > 1
        text = Tokens(PIECES).text(saying.tokens.said().final)
        assert " ".join(w.text for w in end.words) == text
        for a, b in zip(end.words, end.words[1:], strict=False):
            assert 0 <= a.start <= a.end <= b.start and a.end <= a.at <= b.at <= 1.5
        runs.append(end)
    assert runs[0] == runs[1] == runs[2]

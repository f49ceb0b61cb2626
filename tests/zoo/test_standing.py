"""Stable prefixes while somebody speaks: the tokens of CarelessWhisper's own law, and final ones
stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.speech.whisper.live import Live
from streamzoo.zoo.speech.whisper.model import CarelessWhisper, WhisperConfig
from streamzoo.zoo.speech.whisper.standing import Standing
from streamzoo.zoo.speech.written import Prompt

from .small_speech import AUDIO

PROMPT = Prompt((2, 5), never=(7,), never_first=(8,))
CHUNK = 0.06  # seconds: three features
SOUND = AUDIO[:14_400]


@pytest.fixture(scope="module")
def made():
    config = WhisperConfig(dim=8, heads=2, encoder=2, decoder=1, bands=8, vocabulary=9, end=8,
                           window=60, room=90, chunk=3)  # fmt: skip
    model = CarelessWhisper(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), jnp.zeros((1, 320)))
    draw = np.random.default_rng(0)
    return model, jax.tree.map(lambda p: draw.normal(0, 0.8, p.shape).astype("f4"), shapes)


def standing(made, kind=Standing, **options):
    model, params = made
    given = {"every": CHUNK, "longest": 1.0, "pace": 40.0, "begin": PROMPT} | options
    return kind(model, params, **given)


def says(count, tokens):
    """Logits [N, V] in place of a decoder's: four features a word, and each word is heard otherwise
    again and again until six features behind it are heard."""
    logits = np.zeros((len(tokens), 9), np.float32)
    for row in range(len(tokens)):
        place = row + 1 - len(PROMPT.tokens)
        if place < 0:
            logits[row] = np.eye(9)[(*PROMPT.tokens, 0)[row + 1]]
        elif place >= count // 4:
            logits[row, 8] = 2
        else:
            heard = min(count, 4 * place + 10) // 3
            logits[row, :7] = np.random.default_rng((place, heard)).random(7)
            logits[row, :7] += heard * (place % 2)  # all rise, so what is no longer best stays
    return logits


class Told(Standing):
    """With that decoder."""

    def _judge(self, text):
        logits = says(self.count, (*PROMPT.tokens, *text))
        first = len(PROMPT.tokens) - 1
        return logits[np.arange(first, len(logits) - 1), text], logits[first:].argmax(-1)

    def _write(self):
        text = self.tokens
        while (best := int(says(self.count, (*PROMPT.tokens, *text))[-1].argmax())) != 8:
            text = (*text, best)
        return text


@pytest.mark.slow
def test_the_tokens_are_those_of_the_published_law(made, monkeypatch):
    """Live asks token by token over all of the text; its law has the golden of its authors."""
    own, live, lost = standing(made, Told), Live(made[0], made[1], PROMPT, most=60), 0
    monkeypatch.setattr(live, "_logits", lambda tokens: says(live.count, tokens))
    size = int(CHUNK * 16_000)
    for at in range(0, len(SOUND), size):
        before = own.last
        got, want = own.push(SOUND[at : at + size]), live.push(SOUND[at : at + size])
        assert got.final + got.provisional == want.final + want.provisional
        assert got.final[: len(want.final)] == want.final  # theirs may come back into sight
        lost += own.last[: len(before)] != before
    assert lost > 2 and len(own.last) > 8  # tokens were withdrawn, and others stayed


@pytest.mark.slow
def test_a_text_is_judged_as_token_by_token(made):
    own, live, text = standing(made), Live(made[0], made[1], PROMPT), (1, 4, 0, 3)
    own.push(SOUND)
    live.push(SOUND)
    assert own.count == live.count > 20
    logits = live._logits((*PROMPT.tokens, *text))
    logit, best = own._judge(text)
    np.testing.assert_allclose(logit[:4], logits[np.arange(1, 5), text], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(best[:5], logits[1:].argmax(-1))


def test_final_tokens_stay_however_the_sound_is_cut(made):
    ends = []
    for size in (len(SOUND), 1000, 160):
        own, before = standing(made), ()
        for at in range(0, len(SOUND), size):
            said = own.push(SOUND[at : at + size])
            assert said.final[: len(before)] == before and len(said.at) == len(said.final)
            assert len(said.provisional) <= own.look
            before = said.final
        end = own.flush()
        assert end.final[: len(before)] == before and end.provisional == () and end.final
        assert not {7} & set(end.final)
        ends.append(end)
    assert ends[0] == ends[1] == ends[2] and list(ends[0].at) == sorted(ends[0].at)


def test_what_is_refused(made):
    for options in ({"beam": 2}, {"look": 0}):
        with pytest.raises(ValueError, match="stable prefixes are of one text"):
            standing(made, **options)

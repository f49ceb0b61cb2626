"""Beam search: with all texts kept it is brute force over every text, and fewer are no better."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.speech.beam import CTCBeam, TransducerBeam, agreed
from streamzoo.zoo.speech.best_texts import best_texts
from streamzoo.zoo.speech.fastconformer.beam import BeamRecogniser
from streamzoo.zoo.speech.fastconformer.model import FastConformer, FastConformerConfig
from streamzoo.zoo.speech.fastconformer.recognise import Recogniser

from .small_speech import AUDIO, small

V = 3  # the blank is 0


def distributions(seed, *shape):
    x = np.random.default_rng(seed).standard_normal((*shape, V)) * 1.5
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def texts(longest):
    return [t for n in range(longest + 1) for t in itertools.product(range(1, V), repeat=n)]


@pytest.mark.parametrize("seed", range(4))
def test_ctc_is_the_sum_over_all_paths(seed):
    rows = distributions(seed, 5)
    want: dict = {}
    for path in itertools.product(range(V), repeat=5):
        said = tuple(k for k, _ in itertools.groupby(path) if k)
        score = sum(rows[t, v] for t, v in enumerate(path))
        want[said] = np.logaddexp(want.get(said, -np.inf), score)
    search = CTCBeam(1000)
    for row in rows:
        search.push(row)
    got = search.scores()
    assert set(want) <= set(got) and next(iter(got)) == max(want, key=want.__getitem__)
    np.testing.assert_allclose([got[t] for t in want], [*want.values()], atol=1e-9)
    assert np.logaddexp.reduce([*got.values()]) == pytest.approx(0)


def table(seed, longest):
    """A transducer whose symbols depend on the frame and on all that was said."""
    rows = {text: distributions(hash((seed, text)) % 2**31, 4) for text in texts(longest)}
    return lambda frame, prefixes: np.stack([rows[p][frame] for p in prefixes])


@pytest.mark.parametrize("seed", range(3))
def test_a_transducer_is_the_sum_over_all_paths(seed):
    """At most two labels a frame; every way to share the labels of a text among the frames."""
    ask, frames, most = table(seed, 6), 3, 2
    want = {}
    for text in texts(frames * most):
        total = -np.inf
        for counts in itertools.product(range(most + 1), repeat=frames):
            if sum(counts) == len(text):
                score, at = 0.0, 0
                for frame, n in enumerate(counts):
                    for _ in range(n):
                        score += ask(frame, [text[:at]])[0, text[at]]
                        at += 1
                    score += ask(frame, [text[:at]])[0, 0]
                total = np.logaddexp(total, score)
        want[text] = total
    search = TransducerBeam(2000, ask, most)
    for frame in range(frames):
        search.push(frame)
    got = search.scores()
    assert next(iter(got)) == max(want, key=want.__getitem__)
    np.testing.assert_allclose([got[t] for t in want], [*want.values()], atol=1e-9)


def test_a_narrow_beam_finds_what_the_best_symbol_of_each_frame_does_not():
    rows = np.log(np.array([[0.45, 0.4, 0.15], [0.45, 0.4, 0.15]]))
    search = CTCBeam(2)
    for row in rows:
        search.push(row)
    # best symbols: two blanks, 0.2025; "1" is 0.4 * 0.4 + 2 * 0.4 * 0.45 = 0.52
    assert next(iter(search.scores())) == (1,)
    assert search.scores()[(1,)] == pytest.approx(np.log(0.52))
    with pytest.raises(ValueError, match="at least one"):
        CTCBeam(0)


def test_agreed():
    assert agreed([(1, 2, 3), (1, 2, 4), (1, 2)]) == (1, 2)
    assert agreed([(1,)]) == (1,) and agreed([(), (2,)]) == ()


@pytest.mark.slow
def test_attention_is_brute_force_over_all_texts():
    model, params = small()
    never = np.ones(12, bool)
    never[[2, 5, 7]] = False  # the end and two tokens: few enough for brute force
    x, seen = model.apply(params, AUDIO[None, :9000], method="encode")
    limit, told = 3, jnp.array([1], jnp.int32)

    @jax.jit
    def rows(text):
        memory = model.apply(params, x, seen, 4, method="begin")
        logits = model.apply(params, memory, text, method="write")[1][0]
        return jax.nn.log_softmax(jnp.where(never, -jnp.inf, logits))

    want = {}
    for n in range(limit + 1):
        for text in itertools.product((5, 7), repeat=n):
            logs = np.asarray(rows(np.array([[1, *text, *[0] * (limit - n)]], np.int32)))
            score = sum(logs[i, t] for i, t in enumerate(text))
            want[text] = score + (logs[n, 2] if n < limit else 0.0)
    search = lambda beam: [
        np.asarray(a)
        for a in best_texts(model, params, x, seen, limit, 4, told, 1, beam, jnp.asarray(never))
    ]
    tokens, count, scores = search(16)
    got = {tuple(t[:n].tolist()): s for t, n, s in zip(tokens, count, scores, strict=True)
           if s > -np.inf}  # fmt: skip
    assert set(got) == set(want) and len(got) == 15
    np.testing.assert_allclose([got[t] for t in want], [*want.values()], atol=1e-5)
    assert tuple(tokens[0][: count[0]].tolist()) == max(want, key=want.__getitem__)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert search(1)[2][0] <= scores[0] + 1e-6
    # behind what was written already
    told = jnp.array([1, 7, 0], jnp.int32)
    tokens, count, scores = best_texts(model, params, x, seen, 2, 4, told, 2, 8, jnp.asarray(never))
    behind = max((t for t in want if t[:1] == (7,)), key=want.__getitem__)
    assert (7, *np.asarray(tokens[0])[: count[0]].tolist()) == behind


@pytest.fixture(scope="module")
def conformer():
    sizes = dict(dim=16, hidden=24, heads=2, depth=1, bands=16, channels=4, kernel=3)
    config = FastConformerConfig(**sizes, before=4, ahead=1, vocabulary=6, predictor=12, most=3)
    model = FastConformer(config)
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    return model, jax.tree.map(
        lambda p: p + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_a_beam_of_a_stream_keeps_what_it_said(conformer, head):
    model, params = conformer
    audio = AUDIO
    runs = []
    for size in (24_000, 7000):
        heard, before = BeamRecogniser(model, params, head, beam=3), ()
        for start in range(0, len(audio), size):
            said = heard.push(audio[start : start + size])
            assert said.final[: len(before)] == before
            before = said.final
        end = heard.flush().final
        assert end[: len(before)] == before
        runs.append(end)
    assert runs[0] == runs[1] and len(runs[0])


@pytest.mark.slow
def test_a_stream_of_sure_symbols_is_greedy(conformer):
    """Where one symbol has all of each frame's probability no other text is left."""
    model, params = conformer
    params = jax.tree.map(lambda p: p, params)
    params["params"]["ctc_head"] = jax.tree.map(lambda p: 200 * p, params["params"]["ctc_head"])
    own = Recogniser(model, "ctc")
    carry, said = own(params, own.init_carry(1), AUDIO[None])
    _, rest = own.flush(params, carry)
    greedy = tuple(token for part in (said, rest) for token, _ in part.of())
    heard = BeamRecogniser(model, params, "ctc", beam=2)
    heard.push(AUDIO)
    assert heard.flush().final == greedy != ()

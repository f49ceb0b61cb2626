"""When words were said: the best way along features, and that it follows where a decoder looks."""

import itertools

import flax.linen as nn
import numpy as np
import pytest

from streamzoo.zoo.speech.word_times import looks, monotone, smooth, token_starts

from .small_speech import AUDIO, small


@pytest.mark.parametrize("tokens, frames", [(1, 4), (3, 3), (3, 7), (4, 6)])
def test_the_best_way_is_the_best_of_all(tokens, frames):
    scores = np.random.default_rng(tokens).standard_normal((2, tokens, frames))
    first, mean = monotone(scores)
    for row, got, along in zip(scores, first, mean, strict=True):
        best = max(
            itertools.combinations(range(1, frames), tokens - 1),
            key=lambda cuts: sum(
                row[n, f] for n, (a, b) in enumerate(itertools.pairwise((0, *cuts, frames)))
                for f in range(a, b)
            ),
        )  # fmt: skip
        assert got.tolist() == [0, *best]
        bounds = itertools.pairwise((0, *best, frames))
        total = sum(row[n, a:b].sum() for n, (a, b) in enumerate(bounds))
        assert along == pytest.approx(total / frames)
    with pytest.raises(ValueError, match="no way along"):
        monotone(np.zeros((5, 4)))


def test_heads_that_go_along_are_followed_and_others_are_not():
    rng = np.random.default_rng(0)
    starts = np.array([0, 6, 11, 19, 24])
    place = np.searchsorted(starts, np.arange(30), side="right") - 1
    along = np.eye(5)[:, place] + 0.02
    lost = rng.random((6, 5, 30)) * 0.9  # heads that look anywhere
    sink = np.zeros((1, 5, 30))
    sink[..., 29] = 1  # and one that always looks at the end
    weights = np.concatenate([lost, sink, along[None], along[None]])
    weights /= weights.sum(axis=-1, keepdims=True)
    assert np.abs(token_starts(weights, heads=2) - starts).max() <= 2
    assert np.abs(token_starts(weights[:-2], heads=2) - starts).max() > 2
    assert token_starts(np.ones((1, 4, 2))).tolist() == [0, 0, 1, 1]


def test_the_median_of_neighbours():
    x = np.array([[0.0, 9, 0, 0, 5, 5, 5, 0, 0]])
    assert smooth(x, 3)[0].tolist() == [0, 0, 0, 0, 5, 5, 5, 0, 0]


@pytest.mark.slow
def test_looks_are_the_attention_that_the_decoder_has():
    """Weights times values are what its attention gives."""
    model, params = small()
    x, seen = model.apply(params, AUDIO[None, :8000], method="encode")
    seen = seen.at[:, -2:].set(False)
    tokens = np.array([[1, 5, 7, 3]], np.int32)
    weights = looks(model, params, x, seen, tokens)
    assert weights.shape == (2, 4, x.shape[1]) and not np.asarray(weights[..., -2:]).any()
    bound = model.bind(params)
    memory = bound.begin(x, seen, 4)
    got = bound.look(memory, tokens)[0, 0]
    np.testing.assert_allclose(got, weights, atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
    # a value that marks one feature comes out as much as that feature was looked at
    one = memory._replace(heard_values=(memory.heard_values * 0).at[:, :, 3].set(1.0))
    y = _attended(bound, one, tokens, memory.heard_values.shape[-2:])
    np.testing.assert_allclose(y, np.asarray(got[:, :, 3]).T, atol=1e-5)


def _attended(bound, memory, tokens, shape):
    """What cross attention gives to its output projection, the mean of each head: [N, H]."""
    found = []

    def spy(call, args, kwargs, context):
        if context.module is bound.decoder[0].cross.out:
            found.append(np.asarray(args[0]).reshape(tokens.shape[1], *shape).mean(-1))
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        bound.write(memory, tokens)
    return found[0]

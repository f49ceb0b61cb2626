"""Learned look-ahead: a stream is its clip, frames come when they say, latency has a price."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.layers.contract import LAWS, check_causality
from streamzoo.layers.signal.adaptive import AdaptiveAhead
from streamzoo.layers.signal.ticks import subject
from streamzoo.layers.transformer import BlockConfig


def noise(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 8))


def made(most, past=5):
    model = AdaptiveAhead(BlockConfig(8, 2), most, past)
    variables = model.init(jax.random.key(1), model.init_carry(1), noise(0, 1, 2))
    return model, jax.tree.map(
        lambda p: p + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )


def streamed(model, variables, x, cuts):
    """(frames, the input after which each came) of a stream of one."""
    step, carry, at, frames, times = jax.jit(model.apply), model.init_carry(1), 0, [], []
    for n in (*cuts, x.shape[1] - sum(cuts)):
        carry, out = step(variables, carry, x[:, at : at + n])
        here = np.asarray(out.valid[0])
        frames.append(np.asarray(out.x[0])[here])
        times += (at + np.asarray(out.at[0])[here]).tolist()
        at += n
    _, rest = model.apply(variables, carry, method="flush")
    if rest is not None:
        frames.append(np.asarray(rest.x[0])[np.asarray(rest.valid[0])])
    return np.concatenate(frames), times


@pytest.mark.slow
def test_a_frame_comes_with_the_last_that_it_sees_and_not_before_those_in_front_of_it():
    model, variables = made(3)
    x = noise(2, 1, 24)
    want, ahead = model.apply(variables, x, method="clip")
    assert len(set(ahead[0].tolist())) > 2  # frames differ
    due = np.maximum.accumulate(np.arange(24) + np.asarray(ahead[0]))
    for cuts in ((), (1,) * 23, (4, 9)):
        got, times = streamed(model, variables, x, cuts)
        np.testing.assert_allclose(got, want[0], atol=1e-5)
        assert times == due[due < 24].astype(int).tolist()


def test_what_lies_behind_what_a_frame_wants_is_not_read():
    model, variables = made(3)
    x = noise(3, 1, 16)
    want, ahead = model.apply(variables, x, method="clip")
    for frame in (2, 5, 9):
        last = frame + int(ahead[0, frame])
        y, _ = model.apply(variables, x.at[:, last + 1 :].multiply(-50.0), method="clip")
        np.testing.assert_allclose(y[0, frame], want[0, frame], atol=1e-5)
        if ahead[0, frame]:
            other, _ = model.apply(variables, x.at[:, last].add(1.0), method="clip")
            assert np.abs(other[0, frame] - want[0, frame]).max() > 1e-4


def test_no_look_ahead_is_causal_attention():
    model, variables = made(0)
    x = noise(4, 1, 10)
    want, ahead = model.apply(variables, x, method="clip")
    got, times = streamed(model, variables, x, (3, 3))
    np.testing.assert_allclose(got, want[0], atol=1e-5)
    assert times == list(range(10)) and not np.asarray(ahead).any() and model.latency == 0
    soft, _ = model.apply(variables, x, soft=True, method="clip")
    np.testing.assert_allclose(soft, want, atol=1e-6)


FAST = ("check_gaps", "check_chunking")
MARKED = [law if law.__name__ in FAST else pytest.param(law, marks=pytest.mark.slow)
          for law in LAWS if law is not check_causality]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("law", MARKED)
def test_the_kit(law):
    """Causality has its own test above: the kit's wants one latency for all frames."""
    model, variables = made(2)
    if law.__name__ in ("check_flush", "check_latency"):
        pytest.skip("of layers whose frames are all as late")
    law(subject(model, variables, noise))


def test_soft_is_hard_where_frames_want_whole_numbers():
    model, variables = made(2)
    params = variables["params"]
    params["wants"] = {"kernel": jnp.zeros((8, 1)), "bias": jnp.zeros(1)}  # one frame for all
    x = noise(5, 1, 9)
    soft, ahead = model.apply(variables, x, soft=True, method="clip")
    hard, _ = model.apply(variables, x, method="clip")
    np.testing.assert_allclose(np.asarray(ahead), 1.0)
    np.testing.assert_allclose(soft, hard, atol=1e-5)


def test_latency_that_costs_more_is_less():
    """Where a mark stands the answer is two frames ahead, elsewhere it is here."""
    model, rng = AdaptiveAhead(BlockConfig(8, 2), 2, 1), np.random.default_rng(0)
    mark, value = rng.random((16, 16)) < 0.3, rng.standard_normal((16, 16))
    x = np.zeros((16, 16, 8), np.float32)
    x[..., 0], x[..., 1], x[..., 2] = value, mark, ~mark
    want = np.where(mark[:, :-2], value[:, 2:], value[:, :-2])
    key, optimiser = jax.random.key(3), optax.adam(3e-2)
    first = jax.jit(model.init)(key, model.init_carry(1), jnp.asarray(x[:1, :2]))

    def error(learned, soft):
        y, ahead = model.apply(learned[0], x, soft=soft, method="clip")
        return jnp.square((y @ learned[1])[:, :-2] - want).mean(), ahead

    @jax.jit
    def step(learned, state, price):
        loss = lambda one: (lambda e, ahead: e + price * ahead.mean())(*error(one, True))
        change, state = optimiser.update(jax.grad(loss)(learned), state)
        return optax.apply_updates(learned, change), state

    hard, found = jax.jit(lambda learned: error(learned, False)), []
    for price in (0.0, 0.1, 3.0):
        learned = (first, jax.random.normal(key, (8,)) * 0.3)
        state = optimiser.init(learned)
        for _ in range(300):
            learned, state = step(learned, state, price)
        wrong, ahead = map(np.asarray, hard(learned))
        found.append((ahead[mark].mean(), ahead[~mark].mean(), ahead.mean(), wrong))
    free, cheap, dear = found
    assert free[0] > 1.8 and free[1] < 0.2 and free[3] < 0.02  # it looks ahead where it has to
    assert free[2] > cheap[2] > dear[2] and dear[2] < 0.05 and dear[3] > 0.1

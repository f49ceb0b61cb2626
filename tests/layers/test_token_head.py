"""Continuous tokens: several answers of one state, and none is their mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.layers.diffusion.token_head import FlowHead

# by state: modes in the plane, their shares
MODES = {
    0: (((-2.0, 0.0), (2.0, 0.0)), (0.5, 0.5)),
    1: (((0.0, 2.0), (0.0, -2.0)), (0.75, 0.25)),
}
HEAD = FlowHead(2, hidden=48)


def drawn(rng, states):
    """Tokens of states by the mixture, each 0.15 around its mode."""
    which = np.array([rng.choice(2, p=MODES[s][1]) for s in states])
    centre = np.array([MODES[s][0][w] for s, w in zip(states, which, strict=True)])
    return (centre + 0.15 * rng.standard_normal(centre.shape)).astype(np.float32)


@functools.cache
def learned():
    rng = np.random.default_rng(0)
    states = rng.integers(0, 2, 2048)
    tokens, told = jnp.asarray(drawn(rng, states)), jax.nn.one_hot(states, 2)
    variables = HEAD.init(jax.random.key(0), tokens[:1], jnp.zeros(1), told[:1])
    optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, 1200))

    @jax.jit
    def run(variables):
        def step(loop, key):
            variables, state = loop
            pick, key = jax.random.split(key)
            rows = jax.random.randint(pick, (256,), 0, len(tokens))
            loss = lambda v: HEAD.apply(v, tokens[rows], told[rows], key, method="loss").mean()
            change, state = optimiser.update(jax.grad(loss)(variables), state)
            return (optax.apply_updates(variables, change), state), None

        keys = jax.random.split(jax.random.key(1), 1200)
        return jax.lax.scan(step, (variables, optimiser.init(variables)), keys)[0][0]

    return variables, run(variables)


@pytest.mark.slow
def test_it_draws_the_mixture_of_each_state():
    first, after = learned()
    for state, (modes, shares) in MODES.items():
        told = jnp.tile(jax.nn.one_hot(state, 2)[None], (1000, 1))
        draw = lambda v, told=told: np.asarray(
            HEAD.apply(v, told, jax.random.key(5), 16, method="sample")
        )
        x = draw(after)
        apart = np.linalg.norm(x[:, None] - np.asarray(modes)[None], axis=-1)
        near = apart.argmin(axis=1)
        assert np.bincount(near, minlength=2)[0] / 1000 == pytest.approx(shares[0], abs=0.08)
        assert (apart.min(axis=1) < 0.6).mean() > 0.93  # hardly any between them
        assert np.linalg.norm(draw(first)[:, None] - np.asarray(modes), axis=-1).min(1).mean() > 0.8
        # the mean of all answers, which a regression would give, is far from every one of them
        assert np.linalg.norm(x.mean(0) - np.asarray(modes), axis=-1).min() > 0.8


@pytest.mark.slow
def test_a_chain_of_tokens_goes_on_as_it_learned():
    """Autoregressive: the state is the mode of the token before; 0 goes on from the right mode."""
    _, after = learned()
    token, key, seen = jnp.array([[2.0, 0.0]] * 256), jax.random.key(7), []
    for step in range(4):
        state = (jnp.abs(token[:, 0]) > jnp.abs(token[:, 1])).astype(int)  # it alternates
        told = jax.nn.one_hot(state, 2)
        key_ = jax.random.fold_in(key, step)
        token = jnp.asarray(HEAD.apply(after, told, key_, 16, method="sample"))
        seen.append(np.asarray(jnp.abs(token[:, 0]) > jnp.abs(token[:, 1])).mean())
    np.testing.assert_allclose(seen, [0, 1, 0, 1], atol=0.05)


def test_one_step_is_the_flow_from_the_noise():
    first, after = learned()
    told, key = jax.nn.one_hot(jnp.array([0, 1]), 2), jax.random.key(3)
    noise = jax.random.normal(key, (2, 2))
    flow = jnp.asarray(HEAD.apply(after, noise, jnp.ones(2), told))
    got = HEAD.apply(after, told, key, 1, method="sample")
    np.testing.assert_allclose(jnp.asarray(got), noise - flow, atol=1e-6)
    with pytest.raises(ValueError, match="at least one step"):
        HEAD.apply(first, told, key, 0, method="sample")

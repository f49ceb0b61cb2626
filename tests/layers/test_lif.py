"""Leaky integrate-and-fire neurons: their law step by step, and the gradient through spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.lif import LIF, leaky, spike


def test_membranes_leak_fire_and_lose_a_threshold():
    """The law written out for one neuron, in Python floats."""
    currents, decay, threshold = [0.6, 0.6, 0.6, 0.0, 1.7, 0.0, 0.0], 0.8, 1.0
    v, want = 0.0, []
    for current in currents:
        v = decay * v + current - threshold * (v > threshold)
        want.append((v, float(v > threshold)))
    assert [fired for _, fired in want] == [0, 1, 0, 0, 1, 0, 0]
    v, got = jnp.zeros((1,)), []
    for current in currents:
        v, fired = leaky(v, jnp.full((1,), current), jnp.full((1,), decay), threshold)
        got.append((float(v[0]), float(fired[0])))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_gradient_passes_through_a_spike():
    u = jnp.asarray([-1.0, 0.0, 0.5])
    got = jax.vmap(jax.grad(spike))(u)
    np.testing.assert_allclose(got, 1 / (1 + (np.pi * np.asarray(u)) ** 2), rtol=1e-6)


def test_a_layer_learns_what_no_frame_shows():
    """A pulse, and the question after two silent frames: only the membrane remembers."""
    lif = LIF(4, hidden=16)
    x = jnp.zeros((2, 3, 1, 4)).at[0, 0].set(2.0)
    carry = lif.init_carry(2, 1)
    params = lif.init(jax.random.key(0), carry, x)
    told = lambda p: lif.apply(p, carry, x)[1][:, -1].mean((1, 2))
    loss = lambda p: ((told(p) - jnp.asarray([1.0, -1.0])) ** 2).mean()
    descend = jax.jit(lambda p: jax.tree.map(lambda a, g: a - 0.1 * g, p, jax.grad(loss)(p)))
    first = loss(params)
    for _ in range(200):
        params = descend(params)
    assert loss(params) < 0.05 * first
    with pytest.raises(ValueError, match="decay 1.5"):
        LIF(4, decay=1.5).init(jax.random.key(0), carry, x)

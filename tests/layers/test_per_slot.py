"""States along objects that come and go: each as if it were alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import Subject, verify_contract
from streamzoo.layers.lstm import LSTM
from streamzoo.layers.per_slot import PerSlot

DIM, SLOTS, STEPS = 4, 3, 24


class Alone(nn.Module):
    """An LSTM of one token per stream."""

    dim: int

    def setup(self):
        self.lstm = LSTM(self.dim)

    @nn.nowrap
    def init_carry(self, batch):
        return LSTM(self.dim, parent=None).init_carry(batch, 1)

    def __call__(self, carry, x, valid=None):
        return self.lstm(carry, x, valid)


def histories(seed, batch, steps):
    """Objects that come, are lost for frames, leave, and come again under the same number."""
    rng = np.random.default_rng(seed)
    held = np.zeros((batch, steps, SLOTS), np.int32)
    for b in range(batch):
        for s in range(SLOTS):
            t = int(rng.integers(0, 3))
            while t < steps:
                stay = int(rng.integers(1, 7))
                held[b, t : t + stay, s] = rng.integers(1, 4)  # so numbers come again
                t += stay + int(rng.integers(0, 3))  # 0: straight from one to the next
    seen = (held > 0) & (rng.random(held.shape) < 0.7)
    x = rng.normal(size=(*held.shape, DIM)).astype(np.float32)
    return {"x": jnp.asarray(x), "held": jnp.asarray(held), "seen": jnp.asarray(seen)}


@functools.cache
def built():
    module = PerSlot(Alone(DIM))
    d = histories(0, 1, 2)
    return module, module.init(
        jax.random.key(0), module.init_carry(1, SLOTS), d["x"], d["held"], d["seen"]
    )


def step(carry, d, valid=None):
    module, params = built()
    return module.apply(params, carry, d["x"], d["held"], d["seen"], valid)


def stints(held):
    """(first, end) of each stretch of frames in which a slot belongs to one object."""
    edges = np.flatnonzero(np.diff(held)) + 1
    for first, end in zip([0, *edges], [*edges, len(held)], strict=True):
        if held[first]:
            yield int(first), int(end)


@pytest.mark.parametrize("came", [1.0, 0.8])
def test_each_object_is_as_if_it_were_alone(came):
    """Brute force: the module on the frames in which he is seen and on nothing else."""
    module, params = built()
    d = histories(3, 2, STEPS)
    rng = np.random.default_rng(1)
    valid = rng.random((2, STEPS)) < came
    d["x"] = jnp.where(jnp.asarray(d["seen"] & valid[..., None])[..., None], d["x"], jnp.nan)
    _, got = jax.jit(step)(module.init_carry(2, SLOTS), d, None if came == 1 else valid)
    got, count = np.asarray(got), 0
    alone, params = Alone(DIM), {"params": params["params"]["module"]}
    run = jax.jit(alone.apply)
    for b in range(2):
        here = np.flatnonzero(valid[b])
        for s in range(SLOTS):
            held = np.asarray(d["held"])[b, here, s]
            for first, end in stints(held):
                at = [t for t in here[first:end] if d["seen"][b, t, s]]
                carry = alone.init_carry(1)
                for t in at:
                    carry, want = run(params, carry, d["x"][b, t, s][None, None, None])
                    np.testing.assert_allclose(got[b, t, s], want[0, 0, 0], rtol=1e-5, atol=1e-6)
                count += len(at) > 1
    assert count > 8
    blank = ~np.asarray(d["seen"]) | ~valid[..., None]
    assert not got[blank].any()


def test_who_leaves_leaves_nothing():
    module, _ = built()
    d = histories(5, 1, 3)
    d["held"], d["seen"] = jnp.asarray([[[7, 7, 0]] * 3]), jnp.ones((1, 3, SLOTS), bool)
    carry, _ = step(module.init_carry(1, SLOTS), d)
    assert np.asarray(carry.inner.h)[0, :2].any() and carry.holder.tolist() == [[7, 7, 0]]
    gone = {**d, "held": jnp.zeros_like(d["held"]), "seen": jnp.zeros_like(d["seen"])}
    carry, _ = step(carry, gone)
    for leaf in jax.tree.leaves(carry):
        assert not np.asarray(leaf).any()


@pytest.mark.slow
def test_the_carry_law():
    module, _ = built()
    subject = Subject(lambda batch: module.init_carry(batch, SLOTS), step, histories, atol=1e-5)
    verify_contract(subject)

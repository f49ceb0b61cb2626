"""The contract kit catches what it is there to catch: each law against a module that breaks it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject


def make_input(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 4))


def zero_carry(batch):
    return {"sum": jnp.zeros((batch, 4)), "count": jnp.zeros((batch,), jnp.int32)}


def running_sum(carry, x, valid):
    """Correct: y_t = sum of the valid x up to t, decayed."""
    keep = jnp.ones(x.shape[:2], bool) if valid is None else valid

    def step(c, frame):
        value, k = frame
        value = jnp.where(k[:, None], value, 0)
        new = jnp.where(k[:, None], 0.5 * c["sum"] + value, c["sum"])
        count = c["count"] + k
        return {"sum": new, "count": count}, jnp.where(k[:, None], new, 0)

    carry, y = jax.lax.scan(step, carry, (x.swapaxes(0, 1), keep.T))
    return carry, y.swapaxes(0, 1)


def subject(step=running_sum, init=zero_carry, **kw):
    return Subject(init, step, make_input, **kw)


def test_a_correct_module_passes_every_law():
    contract.verify_contract(subject())
    contract.check_year(subject(), warm=20)


def forgets(carry, x, valid):
    _, y = running_sum(zero_carry(x.shape[0]), x, valid)
    return carry, y


def future(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return new, y + jnp.roll(x, -1, axis=1).at[:, -1].set(0)


def neighbours(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return new, y + 1e-6 * y.mean(axis=0, keepdims=True)


def leaks_nan(carry, x, valid):
    new, y = running_sum(carry, x, None)
    if valid is not None:
        y = jnp.where(valid[..., None], y, 0)
    return new, y


def moves_on_in_gaps(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return {**new, "count": carry["count"] + x.shape[1]}, y


def grows(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return {**new, "sum": jnp.concatenate([new["sum"], new["sum"]], axis=1)}, y


def widens(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return {**new, "count": new["count"].astype(jnp.float32)}, y


def drops_gradient(carry, x, valid):
    return running_sum(jax.lax.stop_gradient(carry), x, valid)


def counts_in_float(carry, x, valid):
    new, y = running_sum(carry, x, valid)
    return new, y + jnp.sin(0.1 * new["count"].astype(jnp.float32))[:, None, None]


@pytest.mark.parametrize(
    ("step", "law"),
    [
        (forgets, contract.check_chunking),
        (forgets, contract.check_scan),
        (future, contract.check_causality),
        (neighbours, contract.check_slots),
        (leaks_nan, contract.check_gaps),
        (moves_on_in_gaps, contract.check_gaps),
        (grows, contract.check_fixed_point),
        (widens, contract.check_fixed_point),
        (drops_gradient, contract.check_gradients),
        (counts_in_float, contract.check_year),
    ],
)
def test_each_law_catches_its_offender(step, law):
    options = {"warm": 20} if law is contract.check_year else {}
    with pytest.raises(AssertionError, match=law.__name__.removeprefix("check_").split("_")[0]):
        law(subject(step), **options)


def delayed(carry, x, valid):
    del valid
    history = jnp.concatenate([carry, x], axis=1)
    return history[:, -2:], history[:, : x.shape[1]]


def delay_flush(carry):
    return jnp.zeros_like(carry), carry


def test_latency_too_small_too_large_and_without_flush():
    def init(batch):
        return jnp.zeros((batch, 2, 4))

    right = Subject(init, delayed, make_input, latency=2, flush=delay_flush)
    contract.check_latency(right)
    with pytest.raises(AssertionError, match="no flush"):
        contract.check_latency(Subject(init, delayed, make_input, latency=2))
    with pytest.raises(AssertionError, match="flush gave 2"):
        contract.check_latency(Subject(init, delayed, make_input, latency=1, flush=delay_flush))


def test_the_carry_must_have_the_batch_in_front():
    with pytest.raises(AssertionError, match="no batch axis"):
        contract.check_fixed_point(subject(init=lambda b: {"sum": jnp.zeros((4, b))}))


def test_a_peek_that_writes_is_caught():
    class Sneaky:
        calls = 0

    def step(carry, x, valid):
        Sneaky.calls += 1
        carry, y = running_sum(carry, x, valid)
        return carry, y + Sneaky.calls

    broken = subject(step)
    object.__setattr__(broken, "jitted", step)
    with pytest.raises(AssertionError, match="peek"):
        contract.check_peek(broken)


@pytest.mark.parametrize("seed", range(20))
def test_random_splits_add_up(seed):
    lengths = contract.random_splits(23, seed)
    assert sum(lengths) == 23 and set(lengths) <= set(contract.CHUNKS)


def test_take_and_put_one_stream():
    carry = {"a": jnp.arange(12.0).reshape(3, 4), "n": jnp.arange(3)}
    one = contract.take_stream(carry, 2)
    assert one["a"].shape == (1, 4) and int(one["n"][0]) == 2
    back = contract.put_stream(carry, 0, one)
    np.testing.assert_array_equal(back["a"], np.asarray(carry["a"])[[2, 1, 2]])

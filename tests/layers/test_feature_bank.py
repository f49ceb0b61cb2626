import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.feature_bank import (
    add_sum,
    age,
    clear,
    empty_bank,
    empty_sums,
    write_pinned,
    write_ring,
)

FEATURES = {"x": ((2,), jnp.float32)}


def contents(bank, row=0):
    """time -> first value, of what is there."""
    pairs = zip(np.asarray(bank.time[row]), np.asarray(bank.values["x"][row, :, 0]), strict=True)
    return {int(t): float(v) for t, v in pairs if t >= 0}


def at(t):
    """Values and time of frame t for two rows."""
    return {"x": jnp.full((2, 2), 10.0 * t)}, jnp.full((2,), t)


def test_ring_holds_the_written_frames_of_its_span():
    rng = np.random.default_rng(0)
    bank, seen = empty_bank((2,), 5, FEATURES), {}
    step = jax.jit(write_ring)
    for t in range(40):
        write = rng.random(2) < 0.6
        bank = step(bank, *at(t), jnp.asarray(write))
        if write[0]:
            seen[t] = 10.0 * t
        ages = np.asarray(age(bank, jnp.full((2,), t + 1)))[0]
        read = {t + 1 - int(a) for a in ages if 1 <= a <= 5}
        assert read == {s for s in seen if t + 1 - s <= 5}
        assert all(contents(bank)[s] == seen[s] for s in read)


def test_pinned_keeps_the_latest_and_hands_out_the_rest():
    bank = empty_bank((2,), 3, FEATURES)
    write = jnp.asarray([True, False])
    for t in (0, 4, 5):
        bank, lost = write_pinned(bank, *at(t), write)
        assert not bool(lost.valid.any())
    bank, lost = write_pinned(bank, *at(9), write)
    assert contents(bank) == {4: 40.0, 5: 50.0, 9: 90.0} and contents(lost) == {0: 0.0}
    bank, lost = write_pinned(bank, {"x": jnp.ones((2, 2))}, jnp.full((2,), 5), write)
    assert contents(bank) == {4: 40.0, 5: 1.0, 9: 90.0} and not contents(lost)
    assert not contents(bank, 1)
    assert not contents(clear(bank, jnp.asarray([True, False])))


def test_pinned_keeps_the_first():
    bank = empty_bank((2,), 3, FEATURES)
    write = jnp.ones(2, bool)
    for t in (2, 4, 6, 8, 10):
        bank, _ = write_pinned(bank, *at(t), write, keep_first=True)
    assert set(contents(bank)) == {2, 8, 10}
    with pytest.raises(ValueError, match="at least 2 slots"):
        write_pinned(empty_bank((2,), 1, FEATURES), *at(0), write, keep_first=True)


def test_streaming_sums_are_the_sums_of_the_whole():
    """Row 51 (Cutie's object memory)."""
    x = jax.random.normal(jax.random.key(0), (2, 12, 6, 4))  # [B, T, L, D]
    w = jax.random.uniform(jax.random.key(1), (2, 12, 3, 6))
    whole = add_sum(
        empty_sums((2,), 3, 4), x.reshape(2, 72, 4), jnp.moveaxis(w, 1, 2).reshape(2, 3, 72)
    )
    stream = empty_sums((2,), 3, 4)
    for t in range(12):
        stream = add_sum(stream, x[:, t], w[:, t])
    np.testing.assert_allclose(stream.total, whole.total, atol=1e-5)
    np.testing.assert_allclose(stream.weight, whole.weight, rtol=1e-6)
    want = jnp.einsum("btnl,btld->bnd", w, x) / w.sum((1, 3))[..., None]
    np.testing.assert_allclose(stream.mean, want, atol=1e-5)

"""Shift against a roll, LSTM against torch.nn.LSTM."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.lstm import LSTM, LSTMState, from_torch_lstm
from streamzoo.layers.shift import Shift


@pytest.mark.parametrize("fraction", [0, 1 / 16, 1 / 8, 1 / 4, 1])
def test_shift_is_a_roll_with_a_zero_first_frame_bitwise(fraction):
    x = jax.random.normal(jax.random.key(0), (2, 7, 5, 32))
    shift = Shift(32, fraction)
    _, y = shift.apply({}, shift.init_carry(2, 5), x)
    want = np.asarray(x).copy()
    n = int(32 * fraction)
    want[..., :n] = np.roll(want[..., :n], 1, axis=1)
    want[:, 0, :, :n] = 0
    np.testing.assert_array_equal(np.asarray(y), want)


def test_shift_fraction_out_of_range():
    with pytest.raises(ValueError, match="fraction 1.5"):
        Shift(32, 1.5).init_carry(1, 4)


@pytest.mark.parametrize("hidden", [16, 24])
def test_lstm_equals_torch(hidden):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    reference = torch.nn.LSTM(16, hidden, batch_first=True)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(3)
    x = np.random.default_rng(0).normal(size=(6, 9, 16)).astype(np.float32)
    h0, c0 = np.random.default_rng(1).normal(size=(2, 6, hidden)).astype(np.float32)
    with torch.no_grad():
        want, (h, c) = reference(torch.tensor(x), (torch.tensor(h0[None]), torch.tensor(c0[None])))
    params = from_torch_lstm({k: v.detach().numpy() for k, v in reference.named_parameters()})
    lstm: Any = LSTM(16, hidden=hidden)
    frames = jnp.asarray(x.reshape(2, 3, 9, 16).swapaxes(1, 2))  # six sequences: 2 x 3 tokens
    start = LSTMState(h0.reshape(2, 3, hidden), c0.reshape(2, 3, hidden))
    if hidden != 16:  # look at h itself, before the projection: an identity-like out is not square
        params["out"] = {"kernel": np.eye(hidden, 16, dtype=np.float32), "bias": np.zeros(16)}
    carry, y = lstm.apply({"params": params}, start, frames)
    want = want.numpy().reshape(2, 3, 9, hidden).swapaxes(1, 2)[..., :16]
    np.testing.assert_allclose(y, want, atol=1e-6)
    np.testing.assert_allclose(carry.h, h.numpy().reshape(2, 3, hidden), atol=1e-6)
    np.testing.assert_allclose(carry.c, c.numpy().reshape(2, 3, hidden), atol=1e-6)


def test_lstm_depends_on_the_order_of_the_past():
    lstm: Any = LSTM(16)
    x = jax.random.normal(jax.random.key(1), (1, 5, 2, 16))
    carry = lstm.init_carry(1, 2)
    params = lstm.init(jax.random.key(0), carry, x)
    _, y = lstm.apply(params, carry, x)
    _, z = lstm.apply(params, carry, x[:, jnp.array([1, 0, 3, 2, 4])])
    assert float(jnp.abs(y[:, -1] - z[:, -1]).max()) > 1e-3

"""CausalConv against torch.nn.functional.conv1d and the carry law."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.conv import CausalConv, causal_conv


def frames(seed, batch, steps, tokens=3, dim=8):
    return jax.random.normal(jax.random.key(seed), (batch, steps, tokens, dim))


def build(**options):
    module = CausalConv(8, **options)
    params = module.init(jax.random.key(1), module.init_carry(1, 3), frames(0, 1, 2))
    return module, jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(2), p.shape), params
    )


CASES = [(4, 0, True), (1, 0, True), (2, 0, False), (3, 1, True), (5, 2, True), (4, 3, False)]


@pytest.mark.parametrize("kernel,lookahead,bias", CASES)
def test_stream_and_flush_equal_torch_padded_convolution(kernel, lookahead, bias):
    torch = pytest.importorskip("torch")
    module: Any
    module, params = build(kernel=kernel, lookahead=lookahead, bias=bias)
    x = frames(3, 2, 9)
    carry, y = module.apply(params, module.init_carry(2, 3), x)
    _, tail = module.apply(params, carry, method="flush")
    got = np.concatenate([y, tail], axis=1)[:, lookahead:]
    assert tail.shape[1] == module.latency == lookahead

    flat = np.asarray(x).transpose(0, 2, 3, 1).reshape(6, 8, 9)  # [B * N, D, T]
    flat = np.pad(flat, ((0, 0), (0, 0), (kernel - 1 - lookahead, lookahead)))
    weight = np.asarray(params["params"]["kernel"]).T[:, None]
    offset = torch.tensor(np.asarray(params["params"]["bias"])) if bias else None
    want = torch.nn.functional.conv1d(
        torch.tensor(flat), torch.tensor(weight), offset, groups=8
    ).numpy()
    want = want.reshape(2, 3, 8, 9).transpose(0, 3, 1, 2)
    error = float(np.abs(got - want).max())
    print(f"conv k={kernel} lookahead={lookahead}: max abs difference {error:.1e}")
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_gaps_equal_the_stream_without_them():
    kernel = jax.random.normal(jax.random.key(0), (4, 8))
    tail = frames(1, 2, 3)
    x, valid = frames(2, 2, 10), np.random.default_rng(0).random((2, 10)) < 0.6
    poisoned = jnp.where(valid[..., None, None], x, jnp.nan)
    y, new_tail = causal_conv(poisoned, tail, kernel, None, jnp.asarray(valid))
    for b in range(2):
        keep = np.flatnonzero(valid[b])
        assert 0 < len(keep) < 10
        want, want_tail = causal_conv(x[b : b + 1, keep], tail[b : b + 1], kernel)
        np.testing.assert_allclose(y[b, keep], want[0], atol=1e-6)
        np.testing.assert_array_equal(new_tail[b], want_tail[0])
        assert not np.asarray(y[b, ~valid[b]]).any()


def test_bf16_keeps_its_dtype():
    module, params = build(dtype=jnp.bfloat16)
    carry, y = module.apply(params, module.init_carry(2, 3), frames(0, 2, 5))
    assert carry.dtype == y.dtype == jnp.bfloat16


@pytest.mark.parametrize("options", [{"kernel": 0}, {"kernel": 3, "lookahead": 3}])
def test_wrong_options_name_the_remedy(options):
    with pytest.raises(ValueError, match="of CausalConv must"):
        CausalConv(8, **options)

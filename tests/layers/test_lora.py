"""Low-rank changes: beside a matrix or added to it, the same answers; at first none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import lora
from streamzoo.layers.transformer import Block, BlockConfig

CONFIG = BlockConfig(8, 2, biased="qv", mlp_ratio=2.0)
X = jax.random.normal(jax.random.key(0), (2, 1, 5, 8))


@pytest.fixture(scope="module")
def block():
    module = Block(CONFIG)
    return module, jax.jit(module.init)(jax.random.key(1), (), X)["params"]


def test_beside_the_matrices_is_added_to_them(block):
    module, params = block
    own = lora.first(params, "attn|mlp/up", 3, jax.random.key(2))
    assert sorted(own) == ["attn/out", "attn/qkv", "mlp/up"]
    before = module.apply({"params": params}, (), X)[1]
    with lora.adapted(own):
        np.testing.assert_array_equal(module.apply({"params": params}, (), X)[1], before)
    own = jax.tree.map(lambda a: a + 0.3, own)
    with lora.adapted(own):
        beside = module.apply({"params": params}, (), X)[1]
    merged = lora.merged(params, own)
    np.testing.assert_allclose(module.apply({"params": merged}, (), X)[1], beside, atol=2e-5)
    assert np.abs(beside - before).max() > 0.1
    np.testing.assert_array_equal(merged["mlp"]["down"]["kernel"], params["mlp"]["down"]["kernel"])
    # outside it, nothing is changed
    np.testing.assert_array_equal(module.apply({"params": params}, (), X)[1], before)


def test_only_the_change_learns(block):
    module, params = block
    own = lora.first(params, "attn/out", 2, jax.random.key(3))

    def loss(own):
        with lora.adapted(own):
            return jnp.sum(module.apply({"params": params}, (), X)[1] ** 2)

    slope = jax.jit(jax.grad(loss))(own)["attn/out"]
    assert np.abs(slope["b"]).max() > 0.1 and not np.asarray(slope["a"]).any()  # b is zero


def test_what_is_not_there_is_told(block):
    _, params = block
    with pytest.raises(ValueError, match="no matrix of the model"):
        lora.first(params, "decoder", 2, jax.random.key(0))
    pair = {"a": jnp.zeros((8, 1)), "b": jnp.zeros((1, 9))}
    with pytest.raises(ValueError, match=r"\[8, 9\]: \[8, 8\] is there"):
        lora.merged(params, {"attn/out": pair})
    with pytest.raises(ValueError, match="none is there"):
        lora.merged(params, {"attn/in": pair})

"""Weights on 8 and 4 bits in groups: each runtime computes what the codes say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx", reason="the format is an extra")

from streamzoo.layers.codec import integers
from streamzoo.streaming.export import onnx_program, quantised
from streamzoo.streaming.export.loop import OPEN
from streamzoo.streaming.export.unroll import flat
from streamzoo.streaming.precision import GROUPED

RNG = np.random.default_rng(0)
WIDE = RNG.normal(size=(192, 80)).astype(np.float32) * RNG.lognormal(size=(192, 1))
NARROW = RNG.normal(size=(80, 64)).astype(np.float32)  # groups of 16
ODD = RNG.normal(size=(72, 64)).astype(np.float32)  # no group fits
X = RNG.normal(size=(2, 3, 192)).astype(np.float32)


def net(wide, narrow, odd):
    def f(x):
        y = jax.nn.relu(x @ wide) @ narrow
        return y, jnp.concatenate([y, x[..., :8]], -1) @ odd

    return f


def coded(weight, bits, group):
    """What a weight becomes: groups of the first size that divides it."""
    sizes = [n for n in (128, 64, 32, 16) if n <= group and len(weight) % n == 0]
    if not sizes:
        return weight
    return integers.dequantise(integers.quantise(weight.T, bits, group=sizes[0])).T


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", GROUPED)
def test_answers_are_those_of_the_codes(precision, runtime):
    pytest.importorskip(runtime, reason="the runtime is an extra")
    weights = [a.astype(np.float32) for a in (WIDE, NARROW, ODD)]
    program, _ = flat(net(*weights), jax.ShapeDtypeStruct(X.shape, np.float32))
    whole = onnx_program.model(program, ["x"], ["a", "b"], "case")
    before = whole.SerializeToString()
    made = quantised.quantised(whole, precision, runtime)
    assert whole.SerializeToString() == before  # the other runtime's are made of it, too
    bits, group = GROUPED[precision]
    assert made.ByteSize() < len(before) * {8: 0.75, 4: 0.65}[bits]
    found = OPEN[runtime](made.SerializeToString(), precision)({"x": X})
    codes = [coded(w, bits, group) for w in weights]
    np.testing.assert_array_equal(codes[2], weights[2])
    for name, want, exact in zip("ab", net(*codes)(X), net(*weights)(X), strict=True):
        near = np.abs(found[name] - want).max()
        assert near < 1e-3 * np.abs(want).max() and near < 0.2 * np.abs(want - exact).max()


def test_a_program_without_products_is_refused():
    program, _ = flat(lambda x: x * 2, jax.ShapeDtypeStruct((3,), np.float32))
    whole = onnx_program.model(program, ["x"], ["y"], "case")
    with pytest.raises(ValueError, match="w4a16-g32: the model has no matrix products.*fp32"):
        quantised.quantised(whole, "w4a16-g32", "onnxruntime")

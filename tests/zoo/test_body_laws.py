"""Every body under every policy: chunks, slots, gaps, snapshots, a carry of one shape.

A body is a decoder of one family, or one that sees; a policy is a name. Two lengths, so that a pair
costs two programs: three tokens (or frames) at once, also behind others, and one.
"""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import signature
from streamzoo.layers.policies import POLICIES
from streamzoo.layers.policies.systems import SYSTEMS
from streamzoo.zoo import create_model, init_params

from .language import tiny, tokens

TEXT = {
    "llama": {},
    "qwen2": {"biased": "qkv"},
    "qwen3": {"normed": True},
    "smollm3": {"unturned": 2},
}
VIDEO = ("smolvlm2-tiny", "llava-onevision-tiny", "qwen2.5-vl-tiny", "qwen3-vl-tiny")
ONE_AXIS = ("rekv",)  # its window is of texts: positions on one axis
FAST = {("qwen3", "livevlm"), ("qwen2.5-vl-tiny", "dtd")}
PAIRS = [
    pytest.param(body, name, marks=[pytest.mark.slow] * ((body, name) not in FAST))
    for bodies, names in ((TEXT, sorted(POLICIES)), (VIDEO, SYSTEMS))
    for body in bodies
    for name in names
    if not (name in ONE_AXIS and body.startswith("qwen") and body in VIDEO)
]


@functools.cache
def variables_of(body, bank):
    """Parameters are the same under every policy but one that has its own."""
    if body in TEXT:
        return tiny(**TEXT[body])[1]
    _, variables = init_params(body, seed=1, memory=bank)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    # off their initial values, where a norm's scale and a bias could be swapped
    leaves = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves)


def built(body, name):
    """(model, variables, input of six steps of two streams)."""
    if body in TEXT:
        model, _ = tiny(**TEXT[body], policy=name, context=20 if name == "rekv" else 4)
        return model, variables_of(body, ""), tokens(0, 2, 6)
    model = create_model(body, memory=name, slots=12)  # three frames of four tokens
    bank = name if name == "flash-vstream-2024" else "streaming-llm"
    x = np.random.default_rng(0).standard_normal((2, 6, 16, 16, 3)).astype(np.float32)
    x[:, 3] = x[:, 2] + 0.01  # one that changes little
    return model, variables_of(body, bank), x


@pytest.mark.parametrize("body, name", PAIRS)
def test_a_body_under_a_policy_is_a_stream(body, name):
    model, variables, x = built(body, name)
    step = jax.jit(lambda carry, x, valid: model.apply(variables, carry, x, valid))
    every = np.ones((2, 6), bool)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=5e-5)

    def run(x, valid, lengths, carry=None):
        carry = model.init_carry(2) if carry is None else carry
        said, at = [], 0
        for n in lengths:
            carry, y = step(carry, x[:, at : at + n], valid[:, at : at + n])
            said.append(np.asarray(y))
            at += n
        return carry, np.concatenate(said, axis=1)

    whole, said = run(x, every, [3, 3])
    assert np.isfinite(said).all() and said.std() > 0.01
    # chunks: the same words, the same memory
    parts, again = run(x, every, [1, 3, 1, 1])
    near(again, said)
    jax.tree.map(near, parts, whole)
    # a carry has one shape, and is not as it was
    assert signature(whole) == signature(model.init_carry(2))
    # slots: what another stream shows does not matter, to the last bit
    other = np.array(x)
    other[1] = x[1, ::-1] if body in TEXT else -x[1]
    _, beside = run(other, every, [3, 3])
    np.testing.assert_array_equal(beside[0], said[0])
    assert np.abs(beside[1] - said[1]).max() > 1e-3
    # gaps: frames that are not there leave no trace, whatever stands in their place
    holes = np.array([[1, 0, 1, 1, 0, 1]] * 2, bool)
    broken = np.where(holes.reshape(2, 6, *(1,) * (x.ndim - 2)), x, 7 if body in TEXT else np.nan)
    left, with_holes = run(broken.astype(x.dtype), holes, [3, 3])
    alone, without = run(x[:, [0, 2, 3, 5]], every, [3, 1])
    near(with_holes[:, [0, 2, 3, 5]], without)
    assert (with_holes[:, [1, 4]] == 0).all()
    jax.tree.map(near, left, alone)
    # a snapshot goes on to the last bit
    half, _ = run(x, every, [3])
    file = io.BytesIO()
    leaves, tree = jax.tree.flatten(half)
    np.savez(file, *map(np.asarray, leaves))
    file.seek(0)
    with np.load(file) as kept:
        back = jax.tree.unflatten(tree, [jnp.asarray(kept[k]) for k in kept.files])
    want = run(x[:, 3:], every, [3], half)
    jax.tree.map(np.testing.assert_array_equal, run(x[:, 3:], every, [3], back), want)

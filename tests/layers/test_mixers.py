"""The carry law over every registered mixer and over the layers with a latency."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.chain import Chain
from streamzoo.layers.contract import Subject
from streamzoo.layers.conv import CausalConv
from streamzoo.layers.lstm import LSTM
from streamzoo.layers.mixers import MIXERS, Mix, mix, mixer_class

DIM, TOKENS = 32, 3
LAYERS = {
    **{kind: mix(kind) for kind in MIXERS},
    "window of a frame": mix("window", over="frame", window=3, sinks=1),
    "window of grouped heads": mix("window", heads=4, kv_heads=2, grid=(1, 2), window=5),
    "window, 8 bits": mix("window", heads=2, bits=8, over="frame", window=3, sinks=1),
    "window, keys per channel": mix("window", heads=2, bits=4, block=8, window=8, sinks=1),
    "window without sinks": mix("window", sinks=0, window=4, rope_base=None),
    "shift of all channels": mix("shift", fraction=1.0),
    "narrow lstm": mix("lstm", hidden=16),
    "conv with look-ahead": CausalConv(DIM, kernel=4, lookahead=2),
    "chain": Chain((CausalConv(DIM, kernel=3, lookahead=1), LSTM(DIM), CausalConv(DIM, 4, 2))),
}
# Kernels forced: the bodies that TPU and GPU run, interpreted, in shapes that they take.
SHAPES: dict[str, Any] = {
    "window": dict(heads=2, window=3),
    "nsa": dict(page=16),
    "knn": dict(page=16, capacity=2),
}
FORCED = {
    f"{kind}, interpret": mix(kind, implementation="interpret", **SHAPES.get(kind, {}))
    for kind, module in ((kind, mixer_class(kind)) for kind in MIXERS)
    if "implementation" in {f.name for f in dataclasses.fields(module)}
}
# Another setting of a layer that is proved in the fast part by its own.
VARIANTS = [name for name in LAYERS if name not in MIXERS and name != "conv with look-ahead"]
LAYERS |= FORCED


WIDE = {"mamba2, interpret": 128, "favor, interpret": 128}  # channels, where 32 are too few


def tokens(seed, batch, steps, dtype=jnp.float32, dim=DIM):
    return jax.random.normal(jax.random.key(seed), (batch, steps, TOKENS, dim), dtype)


@functools.cache
def subject(name, dtype="float32", atol=1e-5):
    module, dim = LAYERS[name], WIDE.get(name, DIM)
    if isinstance(module, Mix):
        module = module.build(dim, jnp.dtype(dtype))
    make = functools.partial(tokens, dtype=jnp.dtype(dtype), dim=dim)
    init = lambda batch: module.init_carry(batch, TOKENS)
    params = jax.jit(module.init)(jax.random.key(0), init(1), make(0, 1, 2))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), max(1, len(leaves)))
    leaves = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=False)]
    variables = jax.tree.unflatten(tree, leaves)
    atol *= dim // DIM  # sums of more products round more
    return Subject.of(module, variables, make, init_carry=init, atol=atol)


# One worker per layer, so that its programs are compiled once.
GROUPED = [
    pytest.param(
        name,
        marks=[pytest.mark.group(f"layer {name}")]
        + [pytest.mark.slow] * (name in FORCED or name in VARIANTS),
    )
    for name in LAYERS
]


LONG = (contract.check_gradients, contract.check_endurance, contract.check_year)
LAWS = [pytest.param(law, marks=[pytest.mark.slow] * (law in LONG)) for law in contract.LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", GROUPED)
def test_carry_law(name, law):
    if law is contract.check_latency and name == "shift of all channels":
        pytest.skip("it is a delay of one frame; the block around it adds the frame itself")
    law(subject(name))


@pytest.mark.parametrize("name", LAYERS)
def test_a_fresh_carry_can_be_donated(name):
    """No two leaves share a buffer, which XLA refuses to take twice."""
    module = LAYERS[name]
    module = module.build(DIM, jnp.float32) if isinstance(module, Mix) else module
    leaves = [a for a in jax.tree.leaves(module.init_carry(2, TOKENS)) if a.size]
    assert len({a.unsafe_buffer_pointer() for a in leaves}) == len(leaves)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_carry_law_in_bfloat16(name):
    """bf16 in and out, fp32 state: to 0.05 of max(1, |value|), about six steps of bf16."""
    s = subject(name, "bfloat16", 0.05)
    contract.check_chunking(s, seeds=3)
    contract.check_scan(s)
    contract.check_gaps(s, seeds=1)
    contract.check_fixed_point(s)
    contract.check_slots(s)


@pytest.mark.parametrize("name", ["window", "window of a frame", "chain"])
def test_counters_are_safe_for_a_year(name):
    contract.check_year(subject(name), warm=40)


def test_a_chain_is_the_composition_of_its_clip_forms():
    """Each look-ahead convolution alone on the whole clip, its latency taken off, then the next."""
    chain = LAYERS["chain"]
    assert chain.latency == 3
    x = tokens(4, 1, 9)
    carry = chain.init_carry(1, TOKENS)
    params = chain.init(jax.random.key(2), carry, x)
    carry, y = chain.apply(params, carry, x)
    _, tail = chain.apply(params, carry, method="flush")
    got = jnp.concatenate([y[:, 3:], tail], axis=1)
    for i, layer in enumerate(chain.layers):
        own = {"params": params["params"][f"layers_{i}"]}
        state, out = layer.apply(own, layer.init_carry(1, TOKENS), x)
        if layer.latency:
            _, rest = layer.apply(own, state, method="flush")
            out = jnp.concatenate([out[:, layer.latency :], rest], axis=1)
        x = out
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_unknown_mixers_places_and_options_are_named():
    with pytest.raises(ValueError, match="unknown temporal mixer 'shft'.*shift"):
        mix("shft")
    with pytest.raises(ValueError, match="place 'behind'"):
        mix("shift", place="behind")
    with pytest.raises(ValueError, match="no option 'fractoin'; it has.*fraction"):
        mix("shift", fractoin=0.1)
    with pytest.raises(ValueError, match="looks 2 frames ahead"):
        mix("conv", lookahead=2).build(32)

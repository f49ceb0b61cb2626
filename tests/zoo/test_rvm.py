"""Robust Video Matting: equal to the authors' network on weights drawn at random, and the law."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.conv_gru import ConvGRU
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint, detect_converter
from streamzoo.zoo.matte.rvm.decoder import halved
from tests.zoo import golden_rvm

from ..layers.compare import close
from .drawn import drawn


@functools.cache
def golden():
    with np.load(golden_rvm.FILE) as file:
        return dict(file)


def checkpoint():
    return golden_rvm.drawn(json.loads(str(golden()["shapes"])))


@functools.cache
def converted():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rvm.safetensors"
        save_file(checkpoint(), file)
        plan, variables = convert_checkpoint(file)
    assert (plan.model, dict(plan.overrides)) == ("rvm-mobile", {})
    return variables


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("half", golden_rvm.RATIO), pytest.param("whole", 1.0, marks=pytest.mark.slow)],
)
def test_answers_are_those_of_the_authors_network(name, ratio):
    """Three frames at once and one by one, of sides that halve to odd numbers."""
    g = golden()
    model = create_model("rvm-mobile", image_size=golden_rvm.SIZE, ratio=ratio)
    run = jax.jit(functools.partial(model.apply, method="whole"))
    frames = g["frames"].astype(np.float32) / 255
    carry, found = model.init_carry(1), []
    for t in range(golden_rvm.STEPS):
        carry, *out = run(converted(), carry, frames[:, t : t + 1])
        found.append(out)
    colours, alpha = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    close("alpha", alpha, g[f"{name}_alpha"], 2e-4)
    close("colours", colours, g[f"{name}_colours"], 2e-4)
    close("state at stride 2", carry[3], g[f"{name}_state"], 2e-4)
    close("state at stride 16", carry[0], g[f"{name}_top"], 2e-4)
    wanted = g[f"{name}_alpha"]
    assert np.std(wanted) > 0.02 and ((wanted > 0) & (wanted < 1)).mean() > 0.5


def test_a_state_is_mixed_as_the_gates_say():
    """In float64, with one pixel: the 3 x 3 kernels see zeros around it."""
    unit = ConvGRU(2)
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 1, 2)).astype(np.float32)
    came = np.asarray([[True, False, True]])
    start = unit.init_carry(1, (1, 1))
    params = unit.init(jax.random.key(0), start, x, came)
    params = jax.tree.map(lambda a: a + 0.1, params)
    state, y = unit.apply(params, start, x, came)
    gates, last = (params["params"][k] for k in ("gates", "candidate"))
    dense = lambda p, v: v @ np.float64(p["kernel"][1, 1]) + np.float64(p["bias"])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    want = np.zeros(2)
    for t in (0, 2):
        reset, update = np.split(sigmoid(dense(gates, np.concatenate([x[0, t, 0, 0], want]))), 2)
        new = np.tanh(dense(last, np.concatenate([x[0, t, 0, 0], reset * want])))
        want = (1 - update) * want + update * new
        np.testing.assert_allclose(np.asarray(y)[0, t, 0, 0], want, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(state)[0, 0, 0], want, rtol=1e-5)


def test_an_odd_edge_is_the_mean_of_what_is_there():
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
    want = [[3, 5, 6.5], [10.5, 12.5, 14]]
    np.testing.assert_allclose(halved(jnp.asarray(x))[0, :, :, 0], want)


def test_refusals():
    tensors = checkpoint()
    del tensors["refiner.box_filter.weight"]
    with pytest.raises(ConvertError, match="MobileNetV3 variant"):
        detect_converter(tensors, None).plan(tensors, None)
    with pytest.raises(ValueError, match="whole numbers"):
        create_model("rvm-mobile", image_size=(35, 50), ratio=0.5)
    with pytest.raises(ValueError, match="resize the frames"):
        create_model("rvm-mobile").init_carry(1, (64, 64))


@functools.cache
def subject():
    size = (16, 24)
    params = drawn("rvm-mobile", 0.05, image_size=size, ratio=0.5)

    def frames(seed, batch, steps):
        return jax.random.uniform(jax.random.key(seed), (batch, steps, *size, 3))

    return Subject.of(create_model("rvm-mobile", image_size=size, ratio=0.5), params, frames,
                      atol=1e-3)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS)
def test_carry_law(law):
    law(subject())

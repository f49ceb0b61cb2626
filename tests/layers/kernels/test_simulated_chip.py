"""The kernels on a simulated TPU, whose memories, copies and semaphores are its own.

``interpret=True`` reads whatever lies there. This interpreter raises on a read out of bounds, fills
memory that nobody wrote with NaN, and tells of races between the copies of a pipeline and the body.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from streamzoo.layers.kernels.block_attention import block_attention
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ring_attention import read
from streamzoo.layers.kernels.ssd import SSD

from . import (
    block_attention_cases,
    gated_delta_cases,
    linear_scan_cases,
    ring_attention_cases,
    ssd_cases,
)

CHIP = pltpu.InterpretParams(detect_races=True)


@pytest.fixture
def chip(monkeypatch):
    """Kernels that say ``interpret=True`` run on the simulated chip; the list counts them."""
    real, calls = pl.pallas_call, []

    def simulated(*args, **options):
        if options.get("interpret") is True:  # not the kernels that are traced for other platforms
            calls.append(options["name"])
            options["interpret"] = CHIP
        return real(*args, **options)

    monkeypatch.setattr(pl, "pallas_call", simulated)
    return calls


def _block(implementation):
    arrays, options = block_attention_cases.random_case(1)
    return block_attention(**arrays, **options, with_lse=True, implementation=implementation)


def _ring(implementation):
    (q, keys), options = ring_attention_cases.random_case(0)
    return read(q, keys, implementation=implementation, **options)


def _delta(seed, implementation):
    arrays, options = gated_delta_cases.random_case(seed)
    if len(arrays[0]) == 130:  # whole blocks: jax 0.10 does not simulate a partial one in place
        arrays = tuple(x[:128] for x in arrays)
    options = {**options, "blocks": None}
    return gated_delta(*arrays[:6], reset=arrays[6], implementation=implementation, **options)


def _ssd(seed, implementation):
    arrays, options = ssd_cases.random_case(seed)
    return SSD(*arrays, implementation=implementation, **options)


def _scan(implementation):
    arrays, options = linear_scan_cases.random_case(3)
    return linear_scan(*arrays[:3], reset=arrays[3], implementation=implementation, **options)


CASES = {
    "block_attention": (_block, "interpret_tpu"),
    "ring_attention": (_ring, "interpret_tpu"),
    "gated_delta_step": (functools.partial(_delta, 0), "interpret"),
    "gated_delta_step_lanes": (functools.partial(_delta, 1), "interpret"),
    "gated_delta_clip": (functools.partial(_delta, 2), "interpret"),
    "ssd step": (functools.partial(_ssd, 0), "interpret"),
    "ssd clip": (functools.partial(_ssd, 4), "interpret"),
    "linear_scan": (_scan, "interpret"),
}
FAST = ("block_attention", "ring_attention")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in CASES]
)
def test_no_race_and_no_read_out_of_bounds(name, chip, capfd):
    run, implementation = CASES[name]
    with jax.set_mesh(Mesh(np.array(jax.devices()[:1]), ("chip",))):  # it is told to be alone
        want = jax.jit(lambda: run(None))()
        got = jax.jit(lambda: run(implementation))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)
    assert chip, "no kernel ran"
    assert "RACE" not in capfd.readouterr().out.upper()


@pytest.mark.slow
def test_the_simulated_chip_does_raise():
    """A block read behind the end of its array."""

    def body(x, y):
        y[...] = x[pl.ds(pl.program_id(0) + 4, 8), :]

    shape = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    call = pl.pallas_call(body, grid=(1,), out_shape=shape, interpret=CHIP)
    with pytest.raises(Exception, match="[Oo]ut-of-bounds"):
        jax.block_until_ready(call(jnp.zeros((8, 128))))

"""explain(): what is said is what is lowered, for every operation."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from streamzoo.layers import kernels
from streamzoo.layers.kernels import dispatch
from streamzoo.layers.kernels.attention import attention
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ring_attention import init_ring, ring_attention

from . import table

FIRST = list({op: (op, name) for op, name in reversed(table.cases())}.values())


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def delta(width, steps=4, dtype=jnp.float32):
    k, gate = shape(2, steps, 2, width, dtype=dtype), shape(2, steps, 2)
    return k, k, k, gate, gate, None


@pytest.mark.parametrize("op, name", FIRST, ids=[op for op, _ in FIRST])
def test_what_it_says_is_what_is_lowered(op, name):
    run, arrays = table.case(op, name)
    said = kernels.explain(run, *arrays)
    assert set(said) == {"cpu", "gpu", "tpu"} and said["cpu"].op == op
    assert said["cpu"].implementation == "reference"
    text = export.export(jax.jit(run), platforms=["tpu"])(*arrays).mlir_module()
    assert said["tpu"].implementation.startswith("pallas") == ("tpu_custom_call" in text)


def test_a_head_width_that_no_kernel_takes_is_named():
    said = kernels.explain(gated_delta, *delta(96))
    assert said["tpu"].implementation == "reference"
    assert "head width 96" in said["tpu"].refused["pallas"]
    assert re.search(r"gated_delta on tpu: reference \(not pallas: k has head width 96", str(said))
    assert kernels.explain(gated_delta, *delta(64))["tpu"].implementation == "pallas"


def test_ring_attention_names_width_and_dtype():
    def said(width, dtype):
        ring = jax.eval_shape(lambda: init_ring(1, 2, 8, 16, 2 * width, dtype))
        x = shape(1, 1, 16, 2 * width, dtype=dtype)
        run = lambda ring, x: ring_attention(ring, x, x, x, heads=2, sinks=2, window=8)
        return kernels.explain(run, ring, x)["tpu"]

    assert said(64, jnp.float32).implementation == "pallas"
    assert "head width 96" in said(96, jnp.float32).refused["pallas"]
    assert "float16" in said(64, jnp.float16).refused["pallas"]


def test_an_old_jax_on_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(dispatch, "GPU_PALLAS", False)
    said = kernels.explain(gated_delta, *delta(64))
    assert jax.__version__ in said["gpu"].refused["pallas"]
    assert said["tpu"].implementation == "pallas"
    monkeypatch.setattr(dispatch, "GPU_PALLAS", True)
    assert kernels.explain(gated_delta, *delta(64))["gpu"].implementation == "pallas"


def test_a_library_says_what_it_does_not_take():
    q = shape(1, 8, 2, 16)
    assert kernels.explain(attention, q, q, q)["tpu"].implementation == "library"
    assert "softcap" in kernels.explain(attention, q, q, q, softcap=2.0)["tpu"].refused["library"]


def test_a_name_is_not_a_choice():
    said = kernels.explain(gated_delta, *delta(64), implementation="interpret")
    assert said["cpu"].implementation == "interpret" and "the call names it" in str(said)
    there = kernels.explain(gated_delta, *delta(64), implementation="pallas")
    assert "gated_delta on cpu: pallas (the call names it, and it does not run there)" in str(there)
    assert "gated_delta on tpu: pallas (the call names it)" in str(there)
    one = kernels.explain(linear_scan, shape(1, 1, 8), shape(1, 1, 8), shape(1, 8))
    assert "linear_scan itself names it" in str(one)


def test_a_function_of_several_operations_tells_all():
    def both(k, v, o, gate, beta, state):
        o, _ = gated_delta(k, v, o, gate, beta, state)
        return attention(o, o, o)

    said = kernels.explain(both, *delta(64))
    assert [c.op for c in said.choices] == ["gated_delta"] * 3 + ["attention"] * 3


def test_nothing_to_explain_is_told():
    with pytest.raises(ValueError, match="called no operation"):
        kernels.explain(jnp.sin, shape(3))
    with pytest.raises(dispatch.KernelError, match="needed"):
        kernels.explain(gated_delta, *([shape(3)] * 5), None)

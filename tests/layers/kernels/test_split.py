"""Kernels on many devices: a plain jit over a mesh keeps them, and their answers."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from streamzoo.layers import kernels
from streamzoo.zoo import create_model

from . import table, targets

# What a child process with eight devices runs; prints {case: [error, gradient's error, spec]}.
CHILD = """
import json, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from streamzoo.layers.kernels.block_attention import block_attention
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ring_attention import init_ring, ring_attention
from streamzoo.layers.kernels.ssd import linear_attention
from streamzoo.layers.mixers import mix
from streamzoo.layers.stacked import Layer
from streamzoo.zoo.action.student.model import CausalViT, StudentConfig

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
draw = np.random.default_rng(0)
f = lambda *s: jnp.asarray(draw.normal(size=s), jnp.float32)
inner = dict(implementation="interpret")
on_tpu = dict(implementation="interpret_tpu")
k, gate = f(4, 2, 1, 2, 16), -jnp.abs(f(4, 2, 1, 4))

def stacked(q, k, v, g, b, s):
    o, layer = gated_delta(q, k, v, g, b, Layer(s, jnp.int32(1)), **inner)
    return o, layer.stack

def ring(x, y, r):
    options = dict(heads=2, sinks=1, window=4, over="frame", **on_tpu)
    r, a = ring_attention(r, x, y, y, **options)
    return ring_attention(r, y, x, x, **options)[1], a

x = f(4, 1, 8, 64)
cases = {
    "gated_delta": (stacked, (k, k, f(4, 2, 1, 4, 16), gate, gate, f(4, 3, 2, 4, 16, 16))),
    "ring_attention": (ring, (x, f(4, 1, 8, 64), init_ring(4, 1, 4, 8, 64, jnp.float32))),
    "linear_scan": (lambda a, b, h: linear_scan(a, b, h, **inner),
                    (jax.nn.sigmoid(f(4, 3, 256)), f(4, 3, 256), f(4, 256))),
    "ssd": (lambda q, k, v, g, s: linear_attention(q, k, v, g, s, **inner),
            (f(4, 1, 1, 16), f(4, 1, 1, 16), f(4, 1, 256), gate[:, 0], f(4, 16, 256))),
    "block_attention": (lambda q, k, v: block_attention(
        q, k, v, jnp.tile(jnp.asarray([2, 0]), (4, 1)), page=8, heads=4, kv_heads=2, **on_tpu),
        (f(4, 8, 512), f(4, 32, 256), f(4, 32, 256))),
}
pattern = (mix("gated_delta", heads=2, **inner), mix("window", heads=2, window=2, **inner))
config = StudentConfig((32, 32), 16, 32, 2, 2, pattern, heads=("frame",), num_classes=3)
model = CausalViT(config)
params = model.init(jax.random.key(0), model.init_carry(1), f(1, 1, 32, 32, 3))

def step(frames, carry):
    carry, _ = model.apply(params, carry, frames)
    return model.apply(params, carry, frames)[1].logits

cases["model"] = (step, (f(4, 1, 32, 32, 3), model.init_carry(4)))
far = lambda a, b: max(float(jnp.abs(x - y).max() / jnp.abs(y).max())
                       for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
out = {}
for name, (run, arrays) in cases.items():
    where = NamedSharding(mesh, P(("data", "fsdp")))
    placed = jax.tree.map(lambda a: jax.device_put(a, where), arrays)
    def slope(*arrays):
        first = lambda x: jax.tree.leaves(run(x, *arrays[1:]))[0]
        return jax.grad(lambda x: jnp.sum(first(x) ** 2))(arrays[0])
    both = jax.jit(lambda *a: (run(*a), slope(*a)))
    (got, grad), (want, wanted) = both(*placed), both(*arrays)
    out[name] = [far(got, want), far(grad, wanted), str(jax.tree.leaves(got)[0].sharding.spec)]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes():
    # Eight devices on two cores: programs that meet in any order wait for each other for ever.
    in_order = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8 {in_order}"
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    assert set(found) == {*table.OPS, "model"} - {"attention"}
    for name, (error, of_gradient, spec) in found.items():
        assert error < 1e-5 and of_gradient < 1e-5, (name, found[name])
        assert "data" in spec and "fsdp" in spec, (name, spec)


def small_step(where):
    """A hybrid's step for eight streams, with what it is given placed by ``where(*spec)``."""
    model = create_model("hybrid-s16", image_size=(64, 64), depth=4, heads=("frame",))
    place = lambda tree, *spec: jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where(*spec)), tree
    )
    one = jax.eval_shape(lambda: model.init_carry(1))
    shape = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), one, shape)
    carry = jax.eval_shape(lambda: model.init_carry(8))
    frames = jax.ShapeDtypeStruct((8, 1, 64, 64, 3), jnp.float32)
    return model, (place(params), place(carry, "data"), place(frames, "data"))


@pytest.mark.slow
def test_what_explain_says_of_a_slice_is_in_its_program():
    """Eight chips of a v5e: the kernels that are told are those of the lowered program, by name."""
    mesh = AbstractMesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    model, arrays = small_step(lambda *spec: NamedSharding(mesh, P(*spec)))
    text = export.export(jax.jit(lambda *a: model.apply(*a)), platforms=["tpu"])(*arrays)
    text = text.mlir_module()
    assert "manual_computation" in text
    said = kernels.explain(model, 8, "tpu", {"data": 4, "tensor": 2})
    names = {k.name for c in said.choices if (cost := c.cost()) for k in cost.kernels}
    assert names == set(re.findall(r'kernel_name = "(\w+)"', text))
    assert names == {"gated_delta_step", "ring_attention"}
    deltas = [c for c in said.choices if c.op == "gated_delta"]
    assert {str(c.split) for c in deltas} == {"streams over data, heads over tensor"}
    assert [c.where for c in deltas] == [f"blocks.layer{i}.mixer" for i in range(3)]
    alone = kernels.explain(model, 8, "tpu").choices
    cost = [next(c for c in all if c.op == "gated_delta").cost() for all in (said.choices, alone)]
    assert cost[1].flops == 8 * cost[0].flops


@pytest.mark.slow
def test_a_slice_of_eight_chips_compiles_with_its_kernels():
    from jax.experimental import topologies

    targets.topology("v5e")
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = Mesh(np.array(chips).reshape(4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    model, arrays = small_step(lambda *spec: NamedSharding(mesh, P(*spec)))
    program = jax.jit(lambda *a: model.apply(*a), donate_argnums=1).lower(*arrays).compile()
    text = program.as_text() or ""
    assert "gated_delta_step" in text and "ring_attention" in text and "tpu_custom_call" in text


def test_streams_that_are_not_shared_out_are_refused():
    model = create_model("hybrid-mi16")
    with pytest.raises(ValueError, match="batch 6 is not shared out evenly over 4"):
        kernels.explain(model, 6, "tpu", 4)
    with pytest.raises(ValueError, match="platform 'tpus' is none of cpu, gpu, tpu"):
        kernels.explain(model, 1, "tpus")

"""Every kernel lowers for TPU and CUDA and compiles for five chips, none of which is here.

Compiling is marked slow but for the steps with a donated memory; ``.ci/run`` runs all of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from streamzoo.layers.kernels.dispatch import GPU_PALLAS
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.ring_attention import init_ring, ring_attention
from streamzoo.layers.kernels.ssd import SSD
from streamzoo.zoo import create_model

from . import steps, table, targets

CASES = table.cases()
IDS = [f"{op}-{name}" for op, name in CASES]
FIRST = list({op: (op, name) for op, name in reversed(CASES)}.values())
quiet = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")


@quiet
@pytest.mark.parametrize("target", ["v5e", "h200"])
@pytest.mark.parametrize("op, name", CASES, ids=IDS)
def test_lowers_without_the_chip(op, name, target):
    if target == "h200" and not GPU_PALLAS:
        pytest.skip("Pallas kernels for GPUs want jax >= 0.11, which wants Python 3.12")
    text = targets.lowered(target, *table.case(op, name))
    if target == "h200":
        return  # on a GPU some shapes are left to XLA: shared memory is small
    assert targets.holds_kernel(text, op) == ((op, name) not in table.PLAIN)


def test_a_kernel_is_known_by_its_own_name():
    """Not by the compiler's: XLA has Triton kernels of its own, and so has another operation."""
    call = '%s = f32[8] custom-call(%x), custom_call_target="__gpu$xla.gpu.triton"'
    assert targets.holds_kernel(call.replace("%s", "%gated_delta_step.1"), "gated_delta")
    assert not targets.holds_kernel(call.replace("%s", "%gemm_fusion.1"), "gated_delta")
    assert not targets.holds_kernel(call.replace("%s", "%ring_attention.1"), "attention")
    assert not targets.holds_kernel("// ring_attention beside triton", "ring_attention")
    line = '%1 = stablehlo.custom_call @tpu_custom_call(%0) {backend_config = "...", '
    assert targets.holds_kernel(line + 'kernel_name = "ssd_chunk"}', "ssd")
    assert not targets.holds_kernel(line + 'kernel_name = "other"}', "ssd")


@pytest.mark.parametrize(
    "op, name",
    [pytest.param(*c, marks=() if c in FIRST else pytest.mark.slow) for c in CASES],
    ids=IDS,
)
def test_exports_for_tpu_from_a_host_that_names_no_chip(op, name):
    """As a user's program does: there is a kernel, and no question about the kind of the chip."""
    run, arrays = table.case(op, name)
    text = export.export(jax.jit(run), platforms=["tpu"])(*arrays).mlir_module()
    assert targets.holds_kernel(text, op) == ((op, name) not in table.PLAIN)


@pytest.mark.parametrize("steps", [1, 16, 64, 256])
def test_gated_delta_exports_at_any_length(steps):
    k, v = (jax.ShapeDtypeStruct((2, steps, 2, width), jnp.float32) for width in (64, 128))
    gate = jax.ShapeDtypeStruct((2, steps, 2), jnp.float32)
    run = lambda k, v, gate: gated_delta(k, k, v, gate, gate, None)
    exported = export.export(jax.jit(run), platforms=["tpu"])(k, v, gate)
    assert "tpu_custom_call" in exported.mlir_module()


@pytest.mark.slow
@pytest.mark.parametrize("op, name", CASES, ids=IDS)
def test_compiles_for_v5e(op, name):
    program = targets.compiled("v5e", *table.case(op, name))
    assert targets.holds_kernel(program.as_text() or "", op) == ((op, name) not in table.PLAIN)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("target", [t for t in targets.TARGETS if t != "v5e"])
@pytest.mark.parametrize("op, name", FIRST, ids=[op for op, _ in FIRST])
def test_compiles_for(target, op, name):
    targets.compiled(target, *table.case(op, name))


def _ring_step():
    ring = jax.eval_shape(lambda: init_ring(8, 2, 64, 196, 768, jnp.bfloat16))
    x = jax.ShapeDtypeStruct((8, 1, 196, 768), jnp.bfloat16)
    run = lambda ring, x: ring_attention(ring, x, x, x, heads=12, sinks=2, window=64)
    return run, (ring, x), size_of(ring.k)


def _delta_step():
    state = jax.ShapeDtypeStruct((8 * 196, 12, 64, 128), jnp.float32)
    k = jax.ShapeDtypeStruct((8 * 196, 1, 12, 64), jnp.bfloat16)
    v = jax.ShapeDtypeStruct((8 * 196, 1, 12, 128), jnp.bfloat16)
    g = jax.ShapeDtypeStruct((8 * 196, 1, 12), jnp.float32)
    run = lambda state, k, v, g: gated_delta(k, k, v, g, g, state)[::-1]
    return run, (state, k, v, g), size_of(state)


def _ssd_step():
    state = jax.ShapeDtypeStruct((8 * 196, 128, 768), jnp.float32)
    k = jax.ShapeDtypeStruct((8 * 196, 1, 1, 128), jnp.bfloat16)
    v = jax.ShapeDtypeStruct((8 * 196, 1, 768), jnp.bfloat16)
    g = jax.ShapeDtypeStruct((8 * 196, 1, 12), jnp.float32)
    run = lambda state, k, v, g: SSD(k, k, v, g, state)[::-1]
    return run, (state, k, v, g), size_of(state)


def size_of(a) -> int:
    return int(np.prod(a.shape))


STEPS = {"ring_attention": _ring_step, "gated_delta": _delta_step, "ssd": _ssd_step}


@pytest.mark.parametrize("op", STEPS)
def test_no_copy_of_the_memory_around_a_kernel(op):
    """The donated ring or state is changed in place: its buffer comes back, nothing copies it."""
    run, arrays, elements = STEPS[op]()
    program = targets.compiled("v5e", run, arrays, donate=(0,))
    text = program.as_text() or ""
    assert "tpu_custom_call" in text
    assert not targets.copies(text, elements // 2)
    assert program.memory_analysis().alias_size_in_bytes >= targets.size(arrays[0])


@pytest.mark.slow
def test_sharded_step_of_a_pod_slice():
    """Streams over four chips of a v5e: the carry is donated whole, and nothing is exchanged."""
    chips = targets.topology("v5e").devices
    mesh = Mesh(np.array(chips), ("data",))
    small = dict(image_size=(96, 96), depth=6, heads=("frame",), dtype="bfloat16")
    model = create_model("swa-s16", **small)
    streams = 8 * len(chips)
    carry = jax.eval_shape(lambda: model.init_carry(streams))
    frames = jax.ShapeDtypeStruct((streams, 1, 96, 96, 3), jnp.bfloat16)
    single = jax.eval_shape(lambda: model.init_carry(1))
    one = jax.ShapeDtypeStruct((1, 1, 96, 96, 3), jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(0), single, one)

    def place(tree, spec):
        where = NamedSharding(mesh, spec)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)

    step = jax.shard_map(
        model.apply, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"),
        check_vma=False,
    )  # fmt: skip
    arrays = place(variables, P()), place(carry, P("data")), place(frames, P("data"))
    program = jax.jit(step, donate_argnums=1).lower(*arrays).compile()
    text, memory = program.as_text() or "", program.memory_analysis()
    assert "tpu_custom_call" in text
    assert memory.alias_size_in_bytes >= targets.size(carry) // len(chips)
    assert memory.temp_size_in_bytes < 16 << 30
    for exchange in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        assert exchange not in text


@pytest.mark.slow
@pytest.mark.parametrize("platform", steps.PLATFORMS)
@pytest.mark.parametrize("name", ["gdn-s16", "swa-s16"])
def test_a_model_moves_no_more_of_its_memory_than_is_new(name, platform):
    """On a TPU the kernel reads and writes where the memory lies. On a CPU what is new is sliced
    out and written back once, and what is read may be set apart for it once."""
    step = steps.compiled(name, platform)
    limit = 1.05 * step.new if platform == "tpu" else 2 * step.new + step.carry
    assert step.moved < limit
    if platform == "tpu":
        assert "tpu_custom_call" in step.text

"""Every registered model inside another project's JAX: its flags, 64 bits, explicit meshes, export.

Shapes only: nothing is computed, but where a value could change.
"""

import contextlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from streamzoo.layers.contract import signature
from streamzoo.layers.streaming import flushes
from streamzoo.zoo import WeightsError, create_model, list_models, model_card, model_config, save
from streamzoo.zoo.files import load_file
from streamzoo.zoo.weights import example_inputs, shapes_of

# one small member of each family at once; the rest, which differ in sizes, in the slow part
FAST = ("tsa-lite0", "gdn-lite0", "dinov3-s16", "repvit-m1", "efficientsam-ti16", "tracker-lite0",
        "silero-vad", "hand-lite", "dsta-lite0/ucf11", "carelesswhisper-tiny",
        "smollm2-135m")  # fmt: skip


def distinct():
    for name in list_models():
        arch = name.split("/")[0]
        if name == arch or model_config(name) != model_config(arch):
            yield pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))


def parts(name):
    """(module, shapes of the parameters, shapes of the arguments)."""
    model = create_model(name)
    return model, shapes_of(name), jax.eval_shape(lambda: example_inputs(name, model))


def longer(name, inputs):
    """The arguments of a stream with three frames; others as they are."""
    if not model_card(name).streaming:
        return inputs
    three = lambda a: jax.ShapeDtypeStruct((a.shape[0], 3, *a.shape[2:]), a.dtype)
    return inputs[0], *jax.tree.map(three, inputs[1:])


STRICT = {
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "dtype": lambda: jax.numpy_dtype_promotion("strict"),
}


@pytest.mark.parametrize("name", [*distinct()])
def test_flags_64_bits_and_export(name):
    model, params, inputs = parts(name)
    many = longer(name, inputs)
    want = signature(jax.eval_shape(model.apply, params, *many))
    ends = lambda: (
        flushes(model)
        and signature(
            jax.eval_shape(lambda p, c: model.apply(p, c, method=model.flush), params, many[0])
        )
    )
    end = ends()
    with contextlib.ExitStack() as flags:
        for flag in STRICT.values():
            flags.enter_context(flag())
        assert signature(jax.eval_shape(model.apply, params, *many)) == want
        assert ends() == end
    with jax.enable_x64(True):  # nothing becomes 64 bits wide
        assert signature(jax.eval_shape(model.apply, params, *many)) == want
        assert ends() == end
        again, shapes, given = parts(name)
        assert signature((shapes, given)) == signature((params, inputs)), again

    # what a server without our classes opens, for any number of streams or images
    batch = "b"
    some = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((*export.symbolic_shape(batch, scope=SCOPE), *a.shape[1:]),
                                       a.dtype),
        inputs,
    )  # fmt: skip
    fixed = name.startswith(FIXED)
    program = export.export(jax.jit(model.apply))(params, *(inputs if fixed else some))
    back = export.deserialize(program.serialize())
    assert back.in_tree == program.in_tree and back.out_tree == program.out_tree


LARGE = ("edgetam-m1", "efficienttam-ti16", "sam2.1video-t")
TRACKERS = ("tracker-lite0", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE))


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers_compute_in_bfloat16_under_strict_flags(name):
    """Memories, pointers and masks of mixed types, for three frames."""
    model, params = create_model(name, dtype="bfloat16"), shapes_of(name, dtype="bfloat16")
    inputs = longer(name, jax.eval_shape(lambda: example_inputs(name, model)))
    with contextlib.ExitStack() as flags:
        for flag in STRICT.values():
            flags.enter_context(flag())
        carry, _ = jax.eval_shape(model.apply, params, *inputs)
    assert signature(carry) == signature(inputs[0])


SCOPE = export.SymbolicScope()
FIXED = ("sam2", "edgetam", "efficienttam", "tracker", "live")  # their batch is a number


def step_of(name, **config):
    model = create_model(name, **config)
    params = shapes_of(name, **config)
    carry = jax.eval_shape(lambda: model.init_carry(2))
    h, w = model.config.image_size
    return model, params, carry, jax.ShapeDtypeStruct((2, 3, h, w, 3), jnp.float32)


@pytest.mark.parametrize(
    "name", ["tsa-lite0", *(pytest.param(n, marks=pytest.mark.slow)
                            for n in ("gdn-lite0", "swa-lite0", "rglru-lite0", "conv-lite0",
                                      "dsta-lite0", "hybrid-lite0"))],
)  # fmt: skip
def test_gradients_and_gaps_under_strict_flags(name):
    model, params, carry, frames = step_of(name)
    valid = jax.ShapeDtypeStruct((2, 3), bool)

    def loss(params, carry, frames, valid):
        _, out = model.apply(params, carry, frames, valid)
        answers = out.logits if out.logits is not None else out.box_logits
        return jnp.sum(answers.astype(jnp.float32))

    with contextlib.ExitStack() as flags:
        for flag in STRICT.values():
            flags.enter_context(flag())
        grads = jax.eval_shape(jax.grad(loss), params, carry, frames, valid)
    assert signature(grads) == signature(params)


@pytest.mark.parametrize("flag", STRICT)
def test_the_flags_are_on(flag):
    """The tests above would pass if a flag did nothing."""
    two = {"rank": (jnp.ones((2, 3)), jnp.ones(3)), "dtype": (jnp.ones(3), jnp.ones(3, jnp.int32))}
    with STRICT[flag](), pytest.raises((ValueError, TypeError)):
        jnp.add(*two[flag])


EXPLICIT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import streamzoo
from streamzoo.zoo.weights import init_params

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
model, params = init_params("tsa-ti16", image_size=(32, 48), dim=32, depth=2, heads_per_block=2,
                            num_classes=5, heads=("frame",))
frames = np.random.default_rng(0).normal(size=(2, 3, 32, 48, 3)).astype(np.float32)
carry, want = jax.jit(model.apply)(params, model.init_carry(2), frames)
with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params = jax.device_put(params, whole)
    start = jax.device_put(model.init_carry(2), whole)
    step = jax.jit(jax.sharding.auto_axes(model.apply, out_sharding=P("data")))
    _, got = step(params, start, jax.device_put(frames, split))
np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)
print("equal", got.logits.sharding.spec)
"""


@pytest.mark.slow
def test_a_mesh_with_explicit_axes():
    """As zoo/README.md shows; without ``auto_axes`` JAX itself refuses a model's reshapes."""
    done = subprocess.run(
        [sys.executable, "-c", EXPLICIT], capture_output=True, text=True,
        env={**__import__("os").environ, "JAX_PLATFORMS": "cpu",
             "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )  # fmt: skip
    assert done.stdout.startswith("equal"), done.stderr[-2000:]


KEPT = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu"]


@pytest.mark.parametrize("dtype", KEPT)
def test_odd_floats_are_saved_and_loaded(tmp_path, dtype):
    values = jnp.asarray([[1.0, 0.5], [2.0, 4.0]], dtype)
    save(tmp_path / "x.safetensors", {"params": {"a": {"kernel": values}}})
    back, _ = load_file(tmp_path / "x.safetensors")
    got = back["params"]["a"]["kernel"]
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got.astype(np.float32), np.asarray(values, np.float32))


@pytest.mark.parametrize("dtype", ["float8_e3m4", "float4_e2m1fn", "int4"])
def test_types_that_no_file_holds_are_named(tmp_path, dtype):
    with pytest.raises(WeightsError, match=f"x.safetensors: of {dtype}, .*save with dtype="):
        save(tmp_path / "x.safetensors", {"params": {"a": {"kernel": jnp.ones((2, 2), dtype)}}})
    assert not [*tmp_path.iterdir()]

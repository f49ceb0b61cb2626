"""Learning with fewer bits and fewer weights: what is learned, saved, loaded and measured agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.layers.codec import paretoq
from streamzoo.train import settings
from streamzoo.train.__main__ import main
from streamzoo.train.compressing import CompressConfig, Compressing
from streamzoo.zoo import trees
from streamzoo.zoo.compress import kinds

from .test_recipe import FILE, STUDENT


def flatten(params):
    return trees.flatten({"params": params})


def task_of(**fields):
    """(task around the smallest student, its params)."""
    job = dataclasses.replace(STUDENT, compress=CompressConfig(**fields)).build()
    assert isinstance(job.task, Compressing)
    return job, job.task.init(jax.random.key(0))


@pytest.fixture(scope="module")
def two_bits():
    return task_of(bits=2)


def test_a_kernel_is_used_on_its_levels_and_learns_with_its_scale(two_bits):
    job, params = two_bits
    used = flatten(job.task.effective(params))
    name = "blocks/layer0/mlp/up/kernel"
    w, alpha = flatten(params["task"])[name], params["alpha"][name]
    assert w.shape[0] == 1 and alpha.shape == (1, 1, w.shape[2])  # layers, inputs, outputs
    levels = np.asarray(used[name] / alpha)
    assert set(np.round(np.unique(levels), 4)) <= {-0.75, -0.25, 0.25, 0.75}
    np.testing.assert_allclose(
        used[name][0], paretoq.fake_quantise(w[0], alpha[0], 2), rtol=1e-6, atol=0
    )
    assert np.array_equal(used["blocks/layer0/mlp/up/bias"],
                          flatten(params["task"])["blocks/layer0/mlp/up/bias"])  # fmt: skip


@pytest.mark.slow
def test_gradients_reach_weights_and_scales(two_bits):
    job, params = two_bits
    given = job.task.constants, job.task.init_memory(2), jax.random.key(0), next(job.batches(0, 1))
    grad = jax.jit(jax.grad(lambda *a: job.task.loss(*a)[0]))(params, *given)
    name = "blocks/layer0/mlp/up/kernel"
    assert np.abs(grad["alpha"][name]).max() > 0
    assert np.abs(flatten(grad["task"])[name]).max() > 0


@pytest.mark.slow
def test_the_file_holds_codes_of_the_weights_that_were_measured(two_bits, tmp_path):
    job, params = two_bits
    moved = {n: a * 1.3 for n, a in params["alpha"].items()}  # scales as training leaves them
    params = {**params, "alpha": moved}
    variables = job.task.variables(params)
    assert set(kinds(variables)) == {"paretoq-2"}
    zoo.save(tmp_path / "w.safetensors", variables, job.task.header)
    model, loaded = zoo.load(tmp_path / "w.safetensors")
    frames = jax.random.normal(jax.random.key(1), (1, 2, 32, 32, 3))
    boxes = jnp.asarray([[[[0.0, 0.0, 1.0, 1.0]]] * 2])
    run = jax.jit(lambda v: model.apply(v, model.init_carry(1), frames, boxes=boxes)[1].box_logits)
    apply = lambda v: np.asarray(run(v))
    want = apply({"params": job.task.effective(params)})
    np.testing.assert_allclose(apply(loaded), want, rtol=1e-4, atol=1e-5)
    assert np.abs(apply({"params": params["task"]}) - want).max() > 1e-3


def test_pruned_weights_are_zero_and_stay_so():
    job, params = task_of(prune=0.5, skip=("*fc*",))
    name = "blocks/layer0/mlp/up/kernel"
    used = flatten(job.task.effective(params))
    assert np.mean(np.asarray(used[name]) == 0) == pytest.approx(0.5, abs=0.01)
    head = next(n for n in used if "fc/kernel" in n)
    assert np.all(np.asarray(used[head]) == np.asarray(flatten(params["task"])[head]))
    # whatever an optimiser does to them
    moved = {"task": jax.tree.map(lambda a: a + 1.0, params["task"])}
    again = flatten(job.task.effective(moved))
    assert np.array_equal(np.asarray(again[name]) == 0, np.asarray(used[name]) == 0)
    saved = flatten(job.task.variables(moved)["params"])
    np.testing.assert_array_equal(saved[name], again[name])


def test_rates_are_those_of_the_task(two_bits):
    job, params = two_bits
    scale = job.task.rate_scale(params, 0.5)
    assert jax.tree.structure(scale) == jax.tree.structure(params)
    assert all(a == 1 for a in scale["alpha"].values())


def test_what_has_no_zero_cannot_be_pruned():
    with pytest.raises(ValueError, match="its levels have no 0; take bits 1.58"):
        CompressConfig(bits=2, prune=0.5)
    with pytest.raises(ValueError, match="bits=2.5: 0 for floats, or 1, 1.58, 2, 3, 4"):
        CompressConfig(bits=2.5)
    assert not CompressConfig().wanted
    recipe = settings.override(STUDENT, ["compress.bits=1.58", "compress.prune=0.25"])
    assert recipe.compress == CompressConfig(bits=1.58, prune=0.25)
    with pytest.raises(ValueError, match="'nothing' fits no kernel; kernels are"):
        task_of(bits=4, skip=("nothing",))


@pytest.mark.slow
def test_a_run_with_two_bits_from_the_command_line(tmp_path):
    config = tmp_path / "small.py"
    config.write_text(FILE)
    words = [f"loop.out={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}", "compress.bits=2"]
    assert main(["--config", str(config), "--set", *words]) == 0
    weights = tmp_path / "out" / "weights.safetensors"
    assert set(kinds(zoo.load(weights)[1])) <= {"paretoq-2", "floats"}

"""Depth models equal transformers' classes; their maps are of any size and hold the law."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert, detect_converter
from streamzoo.zoo.weights import shapes_of
from tests.layers.compare import close

GOLDENS = Path(__file__).parents[3] / "shared/goldens/geometry"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")
BACKBONE = {
    "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "image_size": 70,
    "out_indices": [1, 2, 3, 4],
}  # fmt: skip
ANYTHING = {"model_type": "depth_anything", "backbone_config": BACKBONE}
CASES = {
    "depth_anything_relative": (ANYTHING, "depthanything-s14"),
    "depth_anything_metric": (
        {**ANYTHING, "depth_estimation_type": "metric", "max_depth": 20}, "depthanything-s14"
    ),
    "dpt_midas": (
        {"model_type": "dpt", "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4,
         "backbone_out_indices": [0, 1, 2, 3], "readout_type": "project"}, "dpt-l16"
    ),
}  # fmt: skip


def converted(name):
    z = dict(np.load(GOLDENS / f"{name}.npz"))
    tensors = {k[2:]: v for k, v in z.items() if k.startswith("w:")}
    config, _ = CASES[name]
    plan = detect_converter(tensors, config).plan(tensors, config)
    template = shapes_of(plan.model, **plan.overrides)
    variables = convert(tensors, plan.rules, ignore=plan.ignore, template=template)
    return z, plan, create_model(plan.model, **plan.overrides), variables


@needs_goldens
@pytest.mark.parametrize("name", CASES)
def test_depth_is_transformers(name):
    z, plan, model, variables = converted(name)
    assert plan.model.split("-")[0] == CASES[name][1].split("-")[0]
    frames = np.moveaxis(z["pixel_values"], 1, -1)[None]
    _, out = jax.jit(model.apply)(variables, (), frames)
    close(name, out.depth[0], z["predicted_depth"], 1e-5)
    assert out.depth.std() > 1e-3, "with a constant anything would agree"
    assert np.asarray(out.metric).all() == ("metric" in name) and np.asarray(out.valid).all()


def test_an_incomplete_checkpoint_is_told():
    tensors = {"head.conv1.weight": np.zeros((1,)), "backbone.embeddings.cls_token": np.zeros(1)}
    with pytest.raises(ConvertError, match="DINOv2 checkpoint without"):
        detect_converter(tensors, ANYTHING).plan(tensors, ANYTHING)
    with pytest.raises(ConvertError, match="no config.json"):
        detect_converter(tensors, None).plan(tensors, None)


TINY = dict(
    encoder=dict(dim=16, depth=4, heads=2, image_size=(28, 28), table_grid=(2, 2)),
    layers=(0, 1, 2, 3), widths=(4, 4, 4, 4), fused=8, hidden=4,
)  # fmt: skip


def tiny(**more):
    model = create_model("depthanything-s14", **TINY, **more)
    variables = jax.jit(model.init)(jax.random.key(0), (), jnp.zeros((1, 1, 28, 28, 3)))
    lift = lambda path, a: a + 1.0 if "conv3" in str(path) and a.ndim == 1 else a
    return model, jax.tree_util.tree_map_with_path(lift, variables)


@pytest.mark.slow
def test_frames_of_any_size_give_maps_of_their_size():
    model, variables = tiny()
    frames = jax.random.normal(jax.random.key(1), (1, 2, 33, 50, 3))
    apply = jax.jit(model.apply)
    _, out = apply(variables, (), frames, jnp.ones((1, 2), bool))
    assert out.depth.shape == (1, 2, 33, 50) and bool(jnp.isfinite(out.depth).all())
    valid = jnp.asarray([[True, False]])
    _, gap = apply(variables, (), frames.at[:, 1].set(jnp.nan), valid)
    np.testing.assert_allclose(gap.depth[:, 0], out.depth[:, 0], rtol=1e-4, atol=1e-5)
    assert not gap.depth[:, 1].any() and gap.valid.tolist() == [[True, False]]
    assert out.depth.std() > 1e-3, "the lifted head says something"


@pytest.mark.slow
def test_a_depth_model_holds_the_law():
    model, variables = tiny(max_depth=10.0)

    def frames(seed, batch, steps):
        return jax.random.normal(jax.random.key(seed), (batch, steps, 28, 28, 3))

    contract.verify_contract(Subject.of(model, variables, frames))


def test_configs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="the encoder has 4"):
        create_model("depthanything-s14", **{**TINY, "layers": (0, 1, 2, 9)})
    with pytest.raises(ValueError, match="readout 'x'"):
        create_model("depthanything-s14", readout="x")

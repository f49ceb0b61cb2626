"""A person head on the stem's maps: what it reads, and that it learns alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo import zoo
from streamzoo.layers.mixers import Mix
from streamzoo.train.__main__ import main
from streamzoo.train.data.base import DataError
from streamzoo.train.datasets.ucf11 import UCF11Data
from streamzoo.train.finding import PersonsRecipe
from streamzoo.train.tasks.persons import FindPersons
from streamzoo.zoo import Card
from streamzoo.zoo.action.student.model import CausalViT, StudentConfig
from streamzoo.zoo.encode.efficientnet.model import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    Stage,
    of_pyramid,
)
from streamzoo.zoo.encode.stems import stem_width, two_maps

from . import test_ucf11_source

WIDTH = stem_width("efficientnet-lite0")
CONFIG = StudentConfig(
    image_size=(96, 128), patch=32, dim=16, depth=1, heads_per_block=2, temporal=(Mix("lstm"),),
    stem="efficientnet-lite0", heads=("roi", "person"), num_classes=3, max_boxes=4,
    person_cells=2, person_stem=True, person_threshold=0.4,
)  # fmt: skip


@pytest.mark.slow
def test_the_maps_are_those_that_the_pyramid_put_together():
    stages = tuple(Stage(3, *x) for x in ((1, 4, 1, 1), (1, 6, 2, 2), (1, 8, 2, 2), (1, 10, 2, 2),
                                          (1, 12, 2, 1), (1, 14, 2, 2)))  # fmt: skip
    config = EfficientNetLiteConfig(stem=4, stages=stages, head=0, num_classes=0)
    net, frames = EfficientNetLite(config), jax.random.normal(jax.random.key(0), (2, 64, 96, 3))
    variables = net.init(jax.random.key(1), frames, method="levels")
    *_, fine, coarse = net.apply(variables, frames, method="levels")
    got = of_pyramid(net.apply(variables, frames, method="pyramid"), config)
    np.testing.assert_array_equal(got[0], fine)
    np.testing.assert_array_equal(got[1], coarse)
    with pytest.raises(ValueError, match="has one map, not two"):
        two_maps(frames, "palm-points")


@pytest.fixture(scope="module")
def student():
    """(model, variables) for frames that are features of the stem, 3 x 4 cells."""
    model = CausalViT(CONFIG)
    frames = jnp.zeros((1, 1, 3, 4, WIDTH))
    init = lambda: model.init(jax.random.key(0), model.init_carry(1), frames)
    return model, {"params": {**jax.jit(init)()["params"], "stem": {}}}


def batch():
    """Features of four frames with a person each, whose cell of the finer map is lit; of the size
    that the stem's have, which a head that does not normalise them cannot learn from."""
    rng = np.random.default_rng(0)
    frames = rng.normal(0, 6, (4, 1, 3, 4, WIDTH)).astype(np.float32)
    boxes = np.zeros((4, 1, 2, 4), np.float32)
    for k, (row, col) in enumerate(((1, 1), (4, 6), (2, 5), (3, 2))):
        at = 112 * (2 * (row % 2) + col % 2)
        frames[k, 0, row // 2, col // 2, at : at + 20] += 60.0
        x, y = (col + 0.3) / 8, (row + 0.3) / 6
        boxes[k, 0, 1] = x - 0.12, y - 0.2, x + 0.12, y + 0.2
    persons = np.zeros((4, 1, 2), np.float32)
    persons[:, :, 1] = 0.9
    return dict(frames=frames, boxes=boxes, persons=persons, valid=np.ones((4, 1), bool))


def test_the_head_learns_and_nothing_else_does(student):
    model, variables = student
    task = FindPersons(model, Card("dsta-lite0"), variables)
    params = task.init(jax.random.key(0))
    assert set(params) == {"person_head"} and "patch_embed" in task.constants
    given, adam = batch(), optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        (loss, _), grad = jax.value_and_grad(task.loss, has_aux=True)(
            params, task.constants, (), jax.random.key(0), given
        )
        change, state = adam.update(grad, state)
        return optax.apply_updates(params, change), state, loss

    state, losses = adam.init(params), []
    for _ in range(200):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0], losses[::20]
    carry = model.init_carry(4)
    out = model.apply(task.variables(params), carry, given["frames"])[1]
    assert out.box_valid.sum(-1).tolist() == [[1]] * 4
    assert out.person["objectness"].shape == (4, 1, 12, 16)
    np.testing.assert_allclose(out.boxes[:, :, 0], given["boxes"][:, :, 1], atol=0.06)


def test_dropout_shows_every_frame_without_some_channels(student):
    model, variables = student
    losses = []
    for dropout in (0.0, 0.5):
        task = FindPersons(model, Card("dsta-lite0"), variables, dropout=dropout)
        params, given = task.init(jax.random.key(0)), batch()
        told = jax.jit(lambda key, task=task, params=params, given=given: task.loss(
            params, task.constants, (), key, given)[0])  # fmt: skip
        losses.append([float(told(jax.random.key(k))) for k in (0, 1, 0)])
    whole, part = losses
    assert whole[0] == whole[1] and part[0] == part[2] != part[1]


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="two maps of efficientnet-lite0"):
        StudentConfig(person_stem=True)
    with pytest.raises(DataError, match="finds the persons that teach"):
        PersonsRecipe(data=UCF11Data(path=__file__), weights="dsta-lite0/ucf11").check()
    data = UCF11Data(path=__file__, detector="yolox-nano/coco")
    with pytest.raises(DataError, match="a student with a person head and a pretrained stem"):
        PersonsRecipe(data=data, weights="rglru-palm/egogestar").check()


@pytest.mark.slow
def test_the_config_of_the_page_runs_and_the_actions_stay(tmp_path, monkeypatch):
    """One step from the bundled student, on four clips; its weights make a stream."""
    monkeypatch.chdir(tmp_path)
    names = [f"{split}/{c}/v_{w}_{g}_01" for split, g in (("train", "02"), ("test", "04"))
             for w, c in (("golf", "golf_swing"), ("biking", "biking"))]  # fmt: skip
    test_ucf11_source.archive(tmp_path / "ucf11.zip", names)
    words = [f"{part}={value}" for side in ("data", "test") for part, value in (
        (f"{side}.path", tmp_path / "ucf11.zip"), (f"{side}.detector", "yolox-nano/coco"),
    )]  # fmt: skip
    small = ["loop.steps=1", "loop.batch=2", "loop.checkpoint_every=0", "loop.out=out"]
    assert main(["--config", "ucf11_persons", "--set", *words, *small]) == 0
    model, params = zoo.load(tmp_path / "out" / "weights.safetensors")
    assert model.config.person_stem and model.config.decision is not None
    kept = zoo.load("dsta-lite0/ucf11")[1]["params"]
    same = [params["params"][k] for k in ("roi_head", "blocks")], [kept["roi_head"], kept["blocks"]]
    assert all(map(np.array_equal, *map(jax.tree.leaves, same)))

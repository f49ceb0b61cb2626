"""A step in micro-batches is the whole step, whatever each of them holds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train import losses, micro
from streamzoo.train.agglomerate import Agglomerate, AgglomerateConfig
from streamzoo.train.data import handover
from streamzoo.train.live import Live
from streamzoo.train.loop import Job, LoopConfig, run
from streamzoo.train.sami import SAMIConfig
from streamzoo.train.tasks import DistilConfig, Supervise, SuperviseConfig
from streamzoo.train.track import Track
from streamzoo.zoo.encode.stems import stem_width
from streamzoo.zoo.live import LiveConfig, LiveModel
from streamzoo.zoo.registry import Card
from streamzoo.zoo.segment.propagate.model import Propagator

from . import test_agglomerate, test_sami, test_track_task, tiny

LANES, PARTS = 4, 4
WIDTH = stem_width("conv16")


def tiled(batch):
    """The first ``LANES`` lanes of a batch, repeated where it has fewer."""
    return jax.tree.map(lambda a: jnp.asarray(np.resize(a, (LANES, *a.shape[1:]))), batch)


def boxes(steps=tiny.STEPS):
    """A batch whose lanes hold all boxes, few, one, and none; one lane ends early."""
    batch = tiled(tiny.make_batch(3, steps=steps))
    there = np.ones((LANES, steps, tiny.BOXES), bool)
    there[1, 2:] = there[1, :, 1] = False
    there[2, 1:] = there[2, :, 1] = False
    there[3] = False
    valid = np.ones((LANES, steps), bool)
    valid[1, 4:] = False
    new = {"box_valid": there, "labelled": there, "valid": valid, "persons": 0.9 * there}
    fresh = np.asarray([True, False, True, False])
    return batch | {k: jnp.asarray(v) for k, v in (new | {"fresh": fresh}).items()}


def label_task(**config):
    model, weights = tiny.make_student(heads=("roi", "person"))
    return Supervise(model, tiny.CARD, weights, SuperviseConfig(**config))


def windows():
    model, weights = tiny.make_teacher()
    return Supervise(model, tiny.CARD, weights, SuperviseConfig(windows=2))


def several_sizes():
    model, weights = test_agglomerate.make_student()
    config = AgglomerateConfig(
        hidden=8, standardise=False, student_sizes=((8, 8), (12, 12)), teacher_sizes=()
    )
    return Agglomerate(
        model, test_agglomerate.CARD, weights, test_agglomerate.WIDTHS, config, size=(8, 8)
    )


def live_task():
    config = LiveConfig(
        image_size=(16, 16), encoder="conv16", embed=16, period=4, key_dim=8, cross_heads=2,
        dim=16, hidden=16, depth=1, classes=handover.LOOKS, max_boxes=1, person_cells=1, roi_size=1,
    )  # fmt: skip
    model: LiveModel = LiveModel(config)
    maps = jnp.zeros((1, 1, 1, 1, WIDTH))
    weights = jax.jit(lambda k: model.init(k, model.init_carry(1), maps))(jax.random.key(0))
    return Live(model, Card("toy-live"), weights)


def scenes(cameras=3, steps=12):
    """Scenes of ever fewer boxes; who is seen comes back in other scenes."""
    rng = np.random.default_rng(0)
    shape = (LANES, cameras, steps)
    there = rng.random((*shape, 1)) < np.asarray([0.9, 0.5, 0.2, 0.0])[:, None, None, None]
    looks = np.eye(handover.LOOKS)[rng.integers(0, 3, (LANES, cameras))][:, :, None, None]
    corner, scale = rng.uniform(0, 0.5, (*shape, 1, 2)), np.arange(1, LANES + 1)
    batch = {
        "frames": rng.normal(size=(*shape, 1, 1, WIDTH)) * scale.reshape(-1, *[1] * 5),
        "boxes": np.concatenate([corner, corner + 0.4], -1),
        "labels": looks * there[..., None],
        "event": rng.random(shape) < 0.2,
        "anomaly": rng.random(shape) < 0.5,
    }
    found = {name: jnp.asarray(a, jnp.float32) for name, a in batch.items()}
    return found | {"box_valid": jnp.asarray(there), "known": jnp.asarray(there[..., 0])}


def track_task():
    model: Propagator = Propagator(test_track_task.TINY)
    frames = jnp.zeros((1, 1, 32, 32, 3))
    weights = jax.jit(lambda k: model.init(k, model.init_carry(1), frames))(jax.random.key(0))
    return Track(model, test_track_task.CARD, weights)


def squares():
    """Clips whose object stays, leaves, and leaves at once."""
    batch = test_track_task.squares(steps=3, batch=2)
    batch = {name: np.resize(a, (LANES, *a.shape[1:])) for name, a in batch.items()}
    batch["masks"][1, 2] = batch["masks"][2, 1:] = False
    return {name: jnp.asarray(a) for name, a in batch.items()}


CASES = {
    "labels": lambda: (label_task(person=0.5), boxes()),
    "windows": lambda: (windows(), boxes()),
    "distil": lambda: (
        tiny.distil(DistilConfig(person=0.5), tiny.make_student(heads=("roi", "person"))),
        boxes(),
    ),
    "agglomerate": lambda: (
        several_sizes(),
        tiled(test_agglomerate.make_batch(0, test_agglomerate.WIDTHS))
        | {"valid": jnp.asarray([[True], [True], [False], [False]])},
    ),
    "sami": lambda: (
        test_sami.make_task(SAMIConfig(depth=1, heads=2, dim=8, standardise=False)),
        test_sami.make_batch(),
    ),
    "live": lambda: (live_task(), scenes()),
    "track": lambda: (track_task(), squares()),
}


QUICK = ("labels", "live")  # the others differ in their models, not in what they ask
PARAMS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMS)
def test_every_task_has_the_whole_steps_loss_and_gradient(name):
    task, batch = CASES[name]()
    params, key = task.init(jax.random.key(1)), jax.random.key(2)
    memory = task.init_memory(LANES)
    found = {}
    for parts in (1, PARTS):
        step = jax.jit(micro.gradient(task.loss, parts, lambda a: a))
        (loss, (memory_, figures)), slope = step(params, task.constants, memory, key, batch)
        found[parts] = jax.device_get((loss, figures, slope, memory_))
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(found[1][2]))
    assert scale > 1e-3 and np.isfinite(scale)
    # to rounding of float32: sums of gradients are of numbers as large as the largest
    units = (1, 1, max(scale, 1), 1)
    for got, want, unit in zip(found[PARTS], found[1], units, strict=True):
        close: dict[str, Any] = dict(rtol=2e-6, atol=1e-6 * unit)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got, want)


# --- the mechanism -----------------------------------------------------------------------------


class Means:
    """One weight times the mean of the values that are there."""

    constants = ()

    def init(self, key):
        return {"w": jnp.ones(())}

    def init_memory(self, lanes):
        return ()

    def loss(self, params, constants, memory, key, batch):
        return params["w"] * losses.masked_mean(batch["value"], batch["valid"]), ((), {})


@pytest.mark.parametrize("there", [[4, 1], [4, 0], [0, 0], [3, 4]])
def test_lanes_of_different_counts_are_one_mean(tmp_path, there):
    """By hand: four boxes at 1 and one at 3 are 7 / 5, not the mean of 1 and 3."""
    value = np.asarray([[1.0] * 4, [3.0] * 4], np.float32)
    valid = np.arange(4) < np.asarray(there)[:, None]
    batch = {"value": value, "valid": valid}
    want = value[valid].sum() / max(valid.sum(), 1)
    for parts in (1, 2):
        config = LoopConfig(
            steps=1, batch=2, accumulate=parts, out=str(tmp_path / str(parts)), tensorboard=False
        )
        job = Job(Means(), lambda host, hosts: iter([batch]))
        (row,) = run(job, config, log=lambda text: None).history
        assert row["loss"] == row["grad_norm"] == pytest.approx(want, rel=1e-6)


def test_any_function_of_the_whole_step_has_its_gradient():
    """A spread over all lanes: no sum of sums, each lane's gradient depends on the others."""

    def loss(params, constants, memory, key, batch):
        every = micro.of_step(batch @ params["w"]).reshape(-1)
        return every.std() * params["w"].sum(), (memory, {"spread": every.std()})

    rng = np.random.default_rng(0)
    given = ({"w": jnp.asarray(rng.normal(size=3))}, (), (), jax.random.key(0))
    batch = jnp.asarray(rng.normal(size=(8, 3)))
    whole = micro.gradient(loss, 1, lambda a: a)(*given, batch)
    for parts in (2, 8):
        cut = micro.gradient(loss, parts, lambda a: a)(*given, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), cut, whole)


def test_what_is_drawn_does_not_depend_on_the_cut():
    key, seen = jax.random.key(3), {}

    def loss(params, constants, memory, key, batch):
        drawn = jax.vmap(lambda k: jax.random.uniform(k))(micro.lane_keys(key, len(batch)))
        shared = jax.random.uniform(micro.step_key(key))
        own = jnp.broadcast_to(jax.random.uniform(key), drawn.shape)
        return params * 0.0, (jnp.stack([drawn, drawn * 0 + shared, own], 1), {})

    for parts in (1, 2, 4):
        run = micro.gradient(loss, parts, lambda a: a)
        seen[parts] = np.asarray(run(jnp.float32(1), (), (), key, jnp.zeros(8))[0][1][0])
    # memory comes back per lane, here only the batch has lanes: the join puts them in order
    for parts in (2, 4):
        np.testing.assert_array_equal(seen[parts][:, :2], seen[1][:, :2])
    assert len(np.unique(seen[1][:, 0])) == 8 and len(np.unique(seen[1][:, 1])) == 1
    assert len(np.unique(seen[4][:, 2])) == 4  # a loss that draws by its own key: per part


@pytest.mark.parametrize("beforehand", [False, True])
def test_a_count_inside_a_branch_is_never_a_wrong_number(beforehand):
    def loss(params, constants, memory, key, batch):
        count = losses.count(batch > 0) if beforehand else None
        mean = lambda b: losses.masked_mean(b * params, b > 0, count)
        return jax.lax.cond(batch.sum() > -1, mean, mean, batch), (memory, {})

    given = jnp.float32(1), (), (), jax.random.key(0), jnp.asarray([3.0, 0.0, 1.0, 2.0])
    run = jax.jit(micro.gradient(loss, 2, lambda a: a))
    if beforehand:
        assert float(run(*given)[0][0]) == pytest.approx(2.0)
    else:
        with pytest.raises(jax.errors.UnexpectedTracerError):
            run(*given)

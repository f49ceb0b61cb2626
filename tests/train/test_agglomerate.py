"""Agglomerative distillation: losses, figures, grids and sizes by hand; what it can reach."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo import zoo
from streamzoo.train import agglomerate
from streamzoo.train.agglomerate import Agglomerate, AgglomerateConfig
from streamzoo.train.answers import FLOOR, measure
from streamzoo.train.data.base import DataError
from streamzoo.train.teachers import FrozenTeacher
from streamzoo.zoo.encode.adapters import Widths
from streamzoo.zoo.encode.outputs import EncoderOutput
from streamzoo.zoo.registry import Card

CARD = Card("test", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PATCH, LANES = 4, 6


@dataclasses.dataclass(frozen=True)
class Shape:
    image_size: tuple[int, int] = (8, 8)
    patch: int = PATCH
    dim: int = 16
    class_tokens: int = 0


class Linear(nn.Module):
    """The smallest encoder: one linear map of every patch, their mean as the summary."""

    config: Shape

    def setup(self):
        self.embed = nn.Dense(self.config.dim, use_bias=False)
        if self.config.class_tokens:
            self.classes = self.param(
                "classes", nn.initializers.normal(), (self.config.class_tokens, self.config.dim)
            )

    def __call__(self, frames):
        x = self.embed(patches(frames))
        prefix = None
        if self.config.class_tokens:
            prefix = self.classes[None] + x.mean(axis=(1, 2))[:, None]
        return EncoderOutput(features=x, pooled=x.mean(axis=(1, 2)), prefix=prefix)


def patches(frames):
    n, h, w, _ = frames.shape
    x = frames.reshape(n, h // PATCH, PATCH, w // PATCH, PATCH, 3).swapaxes(2, 3)
    return x.reshape(n, h // PATCH, w // PATCH, -1)


def linear_teacher(seed, summary, spatial):
    rng = np.random.default_rng(seed)
    weights = {
        "summary": jnp.asarray(rng.normal(size=(48, summary)), jnp.float32),
        "spatial": jnp.asarray(rng.normal(size=(48, spatial)), jnp.float32),
    }

    def encode(variables, frames):
        x = patches(frames.reshape(-1, *frames.shape[2:]))
        found = {"summary": x.mean(axis=(1, 2)), "spatial": x}
        found = {k: a @ variables["params"][k] for k, a in found.items()}
        return {k: a.reshape(*frames.shape[:2], *a.shape[1:]) for k, a in found.items()}

    return FrozenTeacher(encode, {"params": weights})


def make_student(**fields):
    model = Linear(Shape(**fields))
    frames = jnp.zeros((1, *model.config.image_size, 3))
    return model, model.init(jax.random.key(0), frames)


def make_batch(seed, widths, grid=(2, 2), size=(8, 8)):
    rng = np.random.default_rng(seed)
    batch = {
        "frames": rng.integers(0, 256, (LANES, 1, *size, 3), np.uint8),
        "valid": np.asarray([[True]] * (LANES - 1) + [[False]]),
    }
    for name, width in widths.items():
        batch[f"target_{name}_summary"] = rng.normal(2, 3, (LANES, 1, width.summary))
        batch[f"target_{name}_spatial"] = rng.normal(2, 3, (LANES, 1, *grid, width.spatial))
    return jax.tree.map(lambda a: jnp.asarray(a, a.dtype if a.dtype != float else "f4"), batch)


def figures_of(widths, seed=5):
    rng = np.random.default_rng(seed)
    pair = lambda n: {
        "mean": rng.normal(size=n).astype("f4"), "std": rng.uniform(1, 4, n).astype("f4"),
    }  # fmt: skip
    return {k: {"summary": pair(w.summary), "spatial": pair(w.spatial)} for k, w in widths.items()}


WIDTHS = {"one": Widths(5, 7), "two": Widths(3, 4)}


def loss_by_hand(task, params, batch, config, grid, figures):
    """Everything after the heads' first layers again, in NumPy and torch."""
    torch = pytest.importorskip("torch", reason="bicubic reference")
    frames = np.asarray(batch["frames"])[:, 0].astype("f4") / 255
    x = np.asarray(patches(frames)) @ np.asarray(params["student"]["embed"]["kernel"])
    student = {"summary": x.mean(axis=(1, 2)), "spatial": x}
    keep = np.asarray(batch["valid"])[:, 0]

    def to_grid(a):
        if a.shape[1:3] == grid:
            return a
        a = torch.from_numpy(np.ascontiguousarray(a)).permute(0, 3, 1, 2)
        a = torch.nn.functional.interpolate(a, grid, mode="bicubic", align_corners=False)
        return a.permute(0, 2, 3, 1).numpy()

    total = 0.0
    for name in WIDTHS:
        for part in ("summary", "spatial"):
            head = params["heads"][f"to_{name}"][part]
            up = student[part] @ np.asarray(head["up"]["kernel"])
            up = (up - up.mean(-1, keepdims=True)) / np.sqrt(up.var(-1, keepdims=True) + 1e-6)
            up = up * np.asarray(head["norm"]["scale"]) + np.asarray(head["norm"]["bias"])
            up = torch.nn.functional.gelu(torch.from_numpy(up)).numpy()
            z = up @ np.asarray(head["out"]["kernel"])
            y = np.asarray(batch[f"target_{name}_{part}"])[:, 0]
            y = (y - figures[name][part]["mean"]) / figures[name][part]["std"]
            if part == "spatial":
                z, y = to_grid(z), to_grid(y)
            z, y = z[keep], y[keep]
            cosine = (z * y).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(y, axis=-1)
            smooth = torch.nn.functional.smooth_l1_loss(torch.tensor(z), torch.tensor(y))
            weights = getattr(config, part)
            total += weights[0] * (1 - cosine).mean() + weights[1] * float(smooth)
    return total


@pytest.mark.parametrize("grid", [(2, 2), (3, 1)])
def test_loss_is_the_sum_by_hand(grid):
    config = AgglomerateConfig(hidden=11, summary=(1.0, 0.3), spatial=(0.9, 0.1))
    figures = figures_of(WIDTHS)
    model, variables = make_student()
    task = Agglomerate(
        model, CARD, variables, WIDTHS, config, statistics=figures, size=(8, 8)
    )  # fmt: skip
    params = task.init(jax.random.key(1))
    batch = make_batch(2, WIDTHS, grid)
    loss, (_, told) = jax.jit(task.loss)(params, task.constants, (), jax.random.key(0), batch)
    larger = (max(2, grid[0]), max(2, grid[1]))
    want = loss_by_hand(task, params, batch, config, larger, figures)
    assert float(loss) == pytest.approx(want, rel=1e-4)
    assert set(told) == {
        f"{n}/{p}/{k}" for n in WIDTHS for p in Widths._fields for k in ("cosine", "smooth_l1")
    }
    # a frame that does not exist teaches nothing
    other = {**batch, "frames": batch["frames"].at[-1].set(0)}
    again, _ = jax.jit(task.loss)(params, task.constants, (), jax.random.key(0), other)
    assert float(again) == float(loss)


def test_one_cosine_over_a_whole_map():
    z, y = np.random.default_rng(0).normal(size=(2, 3, 2, 2, 5)).astype("f4")
    task = Agglomerate.__new__(Agglomerate)
    each = task._terms(jnp.asarray(z), jnp.asarray(y), whole=True)["cosine"]
    a, b = z.reshape(3, -1), y.reshape(3, -1)
    want = 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(each, want, rtol=1e-5)
    per_token = task._terms(jnp.asarray(z), jnp.asarray(y), whole=False)["cosine"]
    assert np.abs(per_token - want).max() > 1e-2


def test_gram_anchoring_is_dinov3s():
    """Figures of ``GramLoss`` (facebookresearch/dinov3, dinov3/loss/gram_loss.py, negative ones
    kept, as its configs have it) on the same arrays."""
    rng = np.random.default_rng(0)
    z, y = (rng.normal(size=(2, 3, 3, n)).astype("f4") for n in (5, 7))
    got = agglomerate.gram_distance(jnp.asarray(z), jnp.asarray(y))
    np.testing.assert_allclose(got, [0.24984027, 0.33304036], rtol=1e-5)


def test_gram_anchoring_alone_brings_the_likeness_of_patches_back():
    """A turned and stretched map is as good as the map itself: no head stands between them."""
    config = AgglomerateConfig(
        "linear", summary=(0.0, 0.0), spatial=(0.0, 0.0), gram=2.0, standardise=False
    )
    model, variables = make_student()
    anchor = linear_teacher(3, 4, 5)
    task = Agglomerate(
        model, CARD, variables, {"anchor": Widths(4, 5)}, config, online={"anchor": anchor},
        size=(8, 8),
    )  # fmt: skip
    batch = {"frames": noise_frames(jax.random.key(9)), "valid": jnp.ones((32, 1), bool)}
    start = task.init(jax.random.key(1))
    loss, (_, told) = jax.jit(task.loss)(start, task.constants, (), jax.random.key(0), batch)
    assert float(loss) == pytest.approx(2.0 * float(told["anchor/spatial/gram"]))
    params, last = train(task, 200, 3e-2, noise_frames)
    assert last[0] < 0.1 * float(loss), (last, loss)
    heads = jax.tree.map(lambda a: a[0], params["heads"])
    jax.tree.map(np.testing.assert_array_equal, heads, task.init(jax.random.key(0))["heads"])


def test_figures_are_those_of_all_batches_together():
    rng = np.random.default_rng(0)
    maps = [rng.normal(3, (1, 10, 0), (n, 2, 3, 3)) for n in (4, 7, 1)]
    vectors = [rng.normal(-100, 1e-2, (n, 2)) for n in (4, 7, 1)]
    found = measure(
        {"t": {"spatial": m, "summary": v}} for m, v in zip(maps, vectors, strict=False)
    )["t"]
    every = np.concatenate([m.reshape(-1, 3) for m in maps])
    np.testing.assert_allclose(found["spatial"]["mean"], every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["spatial"]["std"][:2], every.std(0)[:2], rtol=1e-6)
    np.testing.assert_allclose(
        found["summary"]["std"], np.concatenate(vectors).std(0), rtol=1e-4
    )  # a large mean costs no digits
    # a coordinate that never moves must not be blown up
    assert found["spatial"]["std"][2] == pytest.approx(
        FLOOR * np.sqrt((every.std(0) ** 2).mean()), rel=1e-5
    )


def train(task, steps, rate, frames, seeds=(0,), targets=None):
    """Adam on random frames, all seeds at once; (params, losses of the last tenth) with an axis of
    seeds in front."""
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(given, key):
        params, state = given
        x = frames(key)
        valid = jnp.ones(x.shape[:2], bool)
        batch = {"frames": x, "valid": valid} | (targets(key, x) if targets else {})
        slope = jax.value_and_grad(task.loss, has_aux=True)
        (loss, _), grad = slope(params, task.constants, (), key, batch)
        change, state = optimiser.update(grad, state)
        return (optax.apply_updates(params, change), state), loss

    def run(params, key):
        keys = jax.random.split(key, steps)
        (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), keys)
        return params, losses[-(steps // 10) :].mean()

    first = [task.init(jax.random.key(seed)) for seed in seeds]
    first = jax.tree.map(lambda *a: jnp.stack(a), *first)
    return jax.jit(jax.vmap(run))(first, jnp.stack([jax.random.key(s + 100) for s in seeds]))


def noise_frames(key, count=32, size=(8, 8)):
    return jax.random.uniform(key, (count, 1, *size, 3))


@pytest.mark.parametrize("dim, reached", [(16, True), (3, False)])
def test_linear_teachers_are_reached_by_a_student_that_is_wide_enough(dim, reached):
    """Together the teachers have 14 channels: 16 hold them, 3 do not."""
    teachers = {"one": linear_teacher(1, 4, 4), "two": linear_teacher(2, 3, 3)}
    widths = {n: t.widths((8, 8)) for n, t in teachers.items()}
    assert widths == {"one": Widths(4, 4), "two": Widths(3, 3)}
    said = [{n: t.encode(t.variables, noise_frames(jax.random.key(i))) for n, t in teachers.items()}
            for i in range(20)]  # fmt: skip
    figures = measure(said)
    for name in teachers:  # a linear teacher and its standardised answers differ by a constant,
        for part in figures[name].values():  # which a head without biases has no way to say
            part["mean"] = part["mean"] * 0
    model, variables = make_student(dim=dim)
    task = Agglomerate(
        model, CARD, variables, widths, AgglomerateConfig("linear"),
        online=teachers, statistics=figures, size=(8, 8),
    )  # fmt: skip
    # frames about 0, so that the teachers' answers do not all point one way
    _, loss = train(task, 400, 3e-2, lambda key: noise_frames(key) - 0.5)
    assert loss[0] < 1e-3 if reached else loss[0] > 0.1


@pytest.mark.slow
def test_proxy_beats_direct_where_teachers_contradict_each_other():
    """Both teachers say the same three things about a frame and err widely, each in its own way.

    A small student that learns from both at once follows their errors; a proxy that is wider and
    learns longer does not, and a student of the same size and steps learns more from it.
    """
    truth = jax.random.normal(jax.random.key(7), (48, 3))
    views = {n: jax.random.normal(jax.random.key(i), (3, 6)) for i, n in enumerate(("one", "two"))}

    def contradictory(key, x):
        flat = patches(x[:, 0])
        known = {"summary": flat.mean(axis=(1, 2)) @ truth, "spatial": flat @ truth}
        found = {}
        for i, (name, view) in enumerate(views.items()):
            for j, (part, value) in enumerate(known.items()):
                clean = value @ view
                own = jax.random.fold_in(key, 2 * i + j)
                wrong = 4.0 * clean.std() * jax.random.normal(own, clean.shape)
                found[f"target_{name}_{part}"] = (clean + wrong)[:, None]
        return found

    frames = lambda key: noise_frames(key, 16) - 0.5
    config = AgglomerateConfig("linear", standardise=False)
    widths = {n: Widths(6, 6) for n in views}

    def taught(dim, steps, seeds, online=None):
        model, variables = make_student(dim=dim)
        given = {n: t.widths((8, 8)) for n, t in online.items()} if online else widths
        task = Agglomerate(model, CARD, variables, given, config, online=online, size=(8, 8))
        targets = None if online else contradictory
        params, _ = train(task, steps, 1e-2, frames, seeds, targets)
        return [jax.tree.map(lambda a: a[i], task.variables(params)) for i in range(len(seeds))]

    def frozen(variables, dim):
        model = Linear(Shape(dim=dim))

        def encode(variables, x):
            out = model.apply(variables, x[:, 0])
            return {"summary": out.pooled[:, None], "spatial": out.features[:, None]}

        return FrozenTeacher(encode, variables)

    def share(variables):
        """How much of the truth a linear read-out of the student finds, R^2 over patches."""
        x = np.asarray(patches(frames(jax.random.key(99))[:, 0])).reshape(-1, 48)
        z = x @ np.asarray(variables["params"]["embed"]["kernel"])
        y = x @ np.asarray(truth)
        gap = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
        return 1 - (gap**2).sum() / (y**2).sum()

    (proxy,) = taught(12, 1500, (0,))
    direct = taught(3, 150, (1, 2))
    chain = taught(3, 150, (1, 2), {"proxy": frozen(proxy, 12)})
    for a, b in zip(direct, chain, strict=False):
        assert share(b) > share(a) + 0.05, (share(a), share(b))


@pytest.mark.slow
def test_sizes_are_drawn_independently():
    teachers = {"one": linear_teacher(1, 4, 4)}
    sizes = ((8, 8), (12, 8))
    config = AgglomerateConfig(
        "linear", standardise=False, student_sizes=sizes, teacher_sizes=sizes
    )
    model, variables = make_student()
    task = Agglomerate(
        model, CARD, variables, {"one": Widths(4, 4)}, config, online=teachers, size=(16, 16)
    )
    params = task.init(jax.random.key(1))
    frames = noise_frames(jax.random.key(3), 4, (16, 16))
    batch = {"frames": frames, "valid": jnp.ones((4, 1), bool)}
    known = {}
    for s in sizes:
        for t in sizes:
            told = task.compare(params, task.constants, batch, s, t)
            known[s, t] = round(float(told["one/spatial/cosine"]), 5)
    assert len(set(known.values())) == 4
    run = jax.jit(lambda key: task.loss(params, task.constants, (), key, batch)[1][1])
    drawn = [round(float(run(jax.random.key(i))["one/spatial/cosine"]), 5) for i in range(24)]
    assert {min(known.values(), key=lambda v: abs(v - d)) for d in drawn} == set(known.values())
    assert max(min(abs(v - d) for v in known.values()) for d in drawn) < 2e-5


def test_every_teacher_has_its_own_class_token():
    config = dataclasses.replace(agglomerate.AM_RADIO, hidden=8)
    model, variables = make_student(class_tokens=2)
    task = Agglomerate(model, CARD, variables, WIDTHS, config, size=(8, 8))
    params = task.init(jax.random.key(1))
    batch = make_batch(2, WIDTHS)

    def term(params, name):
        told = task.compare(params, task.constants, batch, (8, 8), (8, 8))
        return told[f"{name}/summary/cosine"]

    slopes = jax.jit(lambda p: [jax.grad(term)(p, name) for name in WIDTHS])(params)
    for i, slope in enumerate(slopes):
        slope = slope["student"]["classes"]
        assert np.abs(slope[i]).max() > 0 and not np.abs(slope[1 - i]).any()


@pytest.mark.parametrize("config", [agglomerate.THEIA, agglomerate.DUNE], ids=["theia", "dune"])
def test_published_configs_compare_what_they_say(config):
    model, variables = make_student()
    task = Agglomerate(
        model, CARD, variables, WIDTHS, config, statistics=figures_of(WIDTHS), size=(8, 8)
    )
    params = task.init(jax.random.key(1))
    # the gradient of the summary's term alone, for DUNE: in its heads the map reaches it
    batch = make_batch(2, WIDTHS)
    key = "one/spatial/cosine" if config is agglomerate.THEIA else "one/summary/cosine"

    def term(params):
        told = task.compare(params, task.constants, batch, (8, 8), (8, 8))
        return told[key], told

    (value, told), grad = jax.jit(jax.value_and_grad(term, has_aux=True))(params)
    parts = {name.split("/")[1] for name in told}
    assert parts == ({"spatial"} if config is agglomerate.THEIA else {"summary", "spatial"})
    assert np.isfinite(value) and np.abs(grad["student"]["embed"]["kernel"]).max() > 0
    if config is agglomerate.DUNE:
        assert np.abs(grad["heads"]["to_one"]["block"]["attn"]["qkv"]["kernel"]).max() > 0


COSINE, MAPS = ("summary", "cosine"), ("spatial", "cosine")
HUBER, HUBERS = ("summary", "smooth_l1"), ("spatial", "smooth_l1")


@pytest.mark.parametrize(
    "config, head, weights",
    [
        (agglomerate.EUPE, ("mlp", 1536), {COSINE: 1.0, MAPS: 0.9, HUBERS: 0.1}),
        (agglomerate.EUPE_FIXED, ("mlp", 3072), {COSINE: 1.0, MAPS: 0.9, HUBERS: 0.1}),
        (agglomerate.AM_RADIO, ("mlp", 1536), {COSINE: 1.0, MAPS: 0.9, HUBERS: 0.1}),
        (agglomerate.THEIA, ("conv", 0), {MAPS: 0.9, HUBERS: 0.1}),
        (agglomerate.DUNE, ("transformer", 0), dict.fromkeys((COSINE, HUBER, MAPS, HUBERS), 0.25)),
    ],
)  # fmt: skip
def test_published_weights_reach_the_loss(config, head, weights):
    """Each term alone, and what else makes the five what they are."""
    task = Agglomerate.__new__(Agglomerate)
    task.config = config
    for one in (COSINE, HUBER, MAPS, HUBERS):
        figures = {f"t/{a}/{b}": float((a, b) == one) for a, b in (COSINE, HUBER, MAPS, HUBERS)}
        assert float(task._summed(figures, ())[0]) == pytest.approx(weights.get(one, 0.0)), one
    assert (config.head, config.hidden) == head
    assert config.own_class == (config is agglomerate.AM_RADIO)
    assert config.whole == (config is agglomerate.THEIA)
    assert config.standardise == (config is not agglomerate.AM_RADIO)


def test_settings_that_cannot_be_are_refused():
    model, variables = make_student()
    make = lambda config, **more: Agglomerate(
        model, CARD, variables, WIDTHS, config, size=(8, 8), **more
    )
    with pytest.raises(DataError, match="multiple of its patch"):
        make(AgglomerateConfig(student_sizes=((8, 9),)), statistics={})
    with pytest.raises(DataError, match="one, two are of one size"):
        make(AgglomerateConfig(teacher_sizes=((8, 8),)), statistics={})
    with pytest.raises(DataError, match="2 teachers want a class token each"):
        make(agglomerate.AM_RADIO)
    with pytest.raises(DataError, match="measure"):
        make(AgglomerateConfig())
    with pytest.raises(ValueError, match="weights"):
        AgglomerateConfig(summary=(0, 0), spatial=(0, 0))
    with pytest.raises(ValueError, match="head 'mpl'"):
        make(AgglomerateConfig("mpl"), statistics={}).init(jax.random.key(0))


def test_the_student_is_saved_without_the_heads():
    model, variables = make_student()
    config = AgglomerateConfig(standardise=False)
    task = Agglomerate(model, CARD, variables, WIDTHS, config, size=(8, 8))
    params = task.init(jax.random.key(1))
    assert zoo.trees.flatten(task.variables(params)).keys() == {"embed/kernel"}

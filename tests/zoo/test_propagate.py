"""The tracker that hands masks on: before training it is label propagation, as written out here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject, verify_contract
from streamzoo.zoo import list_models
from streamzoo.zoo.encode.efficientnet.model import EfficientNetLite, EfficientNetLiteConfig, Stage
from streamzoo.zoo.files import load_file
from streamzoo.zoo.registry import BUNDLED
from streamzoo.zoo.resolve import find_weights
from streamzoo.zoo.segment.objects import Objects
from streamzoo.zoo.segment.propagate.model import PropagateConfig, Propagator
from streamzoo.zoo.segment.stream import ABSENT_LOGIT, no_prompts

STAGES = (
    Stage(3, 1, 4, 1, 1),
    Stage(3, 1, 6, 2, 2),
    Stage(3, 1, 8, 2, 2),
    Stage(3, 1, 10, 2, 2),
    Stage(3, 2, 12, 2, 1),
    Stage(3, 1, 14, 2, 2),
)
TRUNK = EfficientNetLiteConfig(stem=4, stages=STAGES, head=0, num_classes=0)
SIZE = (48, 64)
CONFIG = PropagateConfig(
    image_size=SIZE, trunk=TRUNK, dim=8, values=3, objects=2, points=3, prompted_slots=2,
    memories=2, reach=2, nearest=5, memory_dtype="float32", doubt=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def fresh():
    """(module, variables as initialised, jitted step)."""
    module = Propagator(CONFIG)
    carry, frames = module.init_carry(1), jnp.zeros((1, 1, *SIZE, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), carry, frames))()
    return module, variables, jax.jit(module.apply)


def film(seed, steps, batch=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, steps, *SIZE, 3)).astype(np.float32)


def test_levels_are_the_last_maps_of_their_strides():
    model = EfficientNetLite(TRUNK)
    frames = jax.random.normal(jax.random.key(0), (2, *SIZE, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(1), frames, method="levels"))()
    levels = jax.jit(lambda v: model.apply(v, frames, method="levels"))(variables)
    shapes = [(12, 16, 6), (6, 8, 8), (3, 4, 12), (2, 2, 14)]
    assert [m.shape[1:] for m in levels] == shapes
    assert CONFIG.widths == tuple(s[2] for s in shapes) and CONFIG.key == 20


def grown(x, size):
    """[h, w, C] bilinear, by hand."""
    rows, cols = (
        np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        for n, m in zip(size, x.shape, strict=False)
    )
    low, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
    high, right = np.minimum(low + 1, x.shape[0] - 1), np.minimum(left + 1, x.shape[1] - 1)
    a, b = (rows - low)[:, None, None], (cols - left)[None, :, None]
    top = x[low][:, left] * (1 - b) + x[low][:, right] * b
    bottom = x[high][:, left] * (1 - b) + x[high][:, right] * b
    return top * (1 - a) + bottom * a


def by_hand(levels, mask):
    """Mask logits at stride 4 of frames 1 .. T - 1, given the maps of all frames and the first
    mask: loops over cells."""
    unit = lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
    h, w = CONFIG.grid
    keys = []
    for fine, coarse in zip(levels[1], levels[2], strict=False):
        maps = [unit(m - m.mean((0, 1))) for m in (fine, coarse)]
        keys.append(unit(np.concatenate([maps[0], grown(maps[1], (h, w))], -1)))
    cells = lambda m: m.reshape(h, 8, w, 8).mean((1, 3))
    known = {0: cells(mask.astype(float))}
    found = []
    for t in range(1, len(keys)):
        low = np.zeros((h, w))
        for y, x in np.ndindex(h, w):
            seen = []
            for s in {0, *range(max(1, t - CONFIG.memories), t)}:
                for v, u in np.ndindex(h, w):
                    if s and max(abs(v - y), abs(u - x)) > CONFIG.reach:
                        continue
                    seen.append((keys[t][y, x] @ keys[s][v, u], known[s][v, u]))
            like, masks = np.array(sorted(seen)[-CONFIG.nearest :]).T
            p = np.clip(np.average(masks, weights=np.exp(CONFIG.scale * like)), 1e-4, 1 - 1e-4)
            low[y, x] = np.clip(np.log(p / (1 - p)), -4, 4)
        high = grown(low[..., None], (2 * h, 2 * w))[..., 0]
        found.append(high)
        known[t] = 1 / (1 + np.exp(-low))
    return np.stack(found)


@pytest.mark.slow
def test_before_training_and_without_laws_it_is_label_propagation(fresh):
    _, variables, _ = fresh
    module = Propagator(dataclasses.replace(CONFIG, near=0, doubt=False))
    step = jax.jit(module.apply)
    frames = film(1, 5)
    mask = np.zeros(SIZE, bool)
    mask[8:40, 16:48] = True  # whole cells
    prompts = no_prompts(1, 5, 2, 3, SIZE)
    prompts.masks[0, 0, 0], prompts.masked[0, 0, 0] = mask, True
    _, out = step(variables, module.init_carry(1), frames, None, prompts)
    levels = EfficientNetLite(TRUNK).apply(
        {"params": variables["params"]["trunk"]}, frames[0], method="levels"
    )
    want = by_hand([np.asarray(m, np.float64) for m in levels], mask)
    assert want.std() > 0.5
    np.testing.assert_allclose(out.masks[0, 1:, 0], want, atol=2e-3)
    np.testing.assert_allclose(out.scores[0, 1:, 0], want.max((1, 2)), atol=2e-3)
    assert (np.asarray(out.masks[0, :, 1]) == ABSENT_LOGIT).all()
    np.testing.assert_array_equal(out.masks[0, 0, 0] > 0, mask[::4, ::4])


def test_hints_say_where_points_and_boxes_are(fresh):
    module, variables, _ = fresh
    objects = Objects(CONFIG)
    objects.click("a", 20, 12)  # cell (1, 2)
    objects.click("a", 60, 44, 0)  # cell (5, 7)
    objects.box("b", 8, 16, 40, 40)  # cells 2 .. 4, 1 .. 4
    prompts = jax.tree.map(lambda a: jnp.asarray(a[:, 0]), objects.take())
    keys = np.random.default_rng(0).normal(size=(1, 48, CONFIG.key)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    hints, boxed = module.apply(variables, jnp.asarray(keys), prompts, method="_hints")
    hints = np.asarray(hints).reshape(2, *CONFIG.grid, -1)
    assert np.asarray(boxed).ravel().tolist() == [False, True]
    on, beside, box, like, unlike = np.moveaxis(hints[0], -1, 0)
    assert np.unravel_index(on.argmax(), on.shape) == (1, 2) and on.max() == pytest.approx(1.0)
    assert np.unravel_index(beside.argmax(), on.shape) == (5, 7) and not box.any()
    np.testing.assert_allclose(like.ravel(), keys[0] @ keys[0, 1 * 8 + 2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(unlike.ravel(), keys[0] @ keys[0, 5 * 8 + 7], rtol=1e-4, atol=1e-4)
    want = np.zeros(CONFIG.grid)
    want[2:5, 1:5] = 1
    np.testing.assert_array_equal(hints[1, ..., 2], want)
    assert not hints[1][..., [0, 1, 3, 4]].any()


def test_a_cell_is_one_objects_at_most_and_else_they_do_not_know_of_each_other(fresh):
    module, variables, step = fresh
    frames = film(2, 3)
    both = no_prompts(1, 3, 2, 3, SIZE)
    both.masks[0, 0, 0, 8:24, 8:40] = both.masks[0, 1, 1, 24:40, 16:64] = True
    both.masked[0, 0, 0] = both.masked[0, 1, 1] = True
    one = jax.tree.map(np.copy, both)
    one.masked[0, 1, 1] = False
    together, alone = (
        step(variables, module.init_carry(1), frames, None, p)[1] for p in (both, one)
    )
    apart, own = (np.asarray(out.masks[0]) for out in (together, alone))
    assert not (apart > 0).all(axis=1).any()
    yields = (apart[:, 0] != own[:, 0]) & (apart[:, 1] > ABSENT_LOGIT)
    np.testing.assert_array_equal(apart[0, 0], own[0, 0])
    assert (apart[1, 0][yields[1]] < own[1, 0][yields[1]]).all()
    assert np.asarray(together.active)[0].tolist() == [[True, False], [True, True], [True, True]]


def test_what_is_like_others_that_were_taken_for_the_object_is_known(fresh):
    """A prompted frame whose cells 0 to 9 are the object and 10 to 19 another that was left out."""
    module, variables, _ = fresh
    rng, cells = np.random.default_rng(6), CONFIG.grid[0] * CONFIG.grid[1]
    keys = rng.normal(size=(1, cells, CONFIG.key)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    carry = module.init_carry(1)
    bank, place = carry.prompted, np.arange(cells)
    values = {name: np.array(value) for name, value in bank.values.items()}
    values["key"][:, :, 0] = keys
    values["value"][:, :, 0, :10, 0] = 1.0
    values["other"][:, 0, 0, 10:20] = True  # of object 0; object 1 has met nobody
    time = np.array(bank.time)
    time[..., 0] = 0
    carry = carry.replace(prompted=bank.replace(values=values, time=jnp.asarray(time)))
    shown = np.asarray(module.apply(variables, carry, jnp.asarray(keys), method="_read")[2])[0]
    assert (shown[0, :10] > 0).all() and (shown[0, 10:20] < 0).all() and (shown[1] > 0).all()
    mine, other = (keys[0] @ keys[0][part].T for part in (place < 10, place[10:20]))
    np.testing.assert_allclose(shown[0], mine.max(1) - other.max(1), atol=1e-5)


def test_parts_left_out_when_a_prompt_is_given_are_remembered_as_others(fresh):
    module, variables, step = fresh
    prompts = no_prompts(1, 2, 2, 3, SIZE)
    prompts.points[0, 0, 0, 0], prompts.labels[0, 0, 0, 0] = (8 * 2 + 4, 8 * 2 + 4), 1
    prompts.pointed[0, 0, 0] = True
    low = np.full((1, 2, *CONFIG.grid), -2.0, np.float32)
    low[..., 1:4, 1:4] = low[..., 1:4, 6:8] = 2.0
    made = lambda self, base, read, image, fine, hints: (
        jnp.asarray(low).reshape(2, *CONFIG.grid),
        jnp.repeat(jnp.repeat(jnp.asarray(low).reshape(2, *CONFIG.grid), 2, 1), 2, 2),
        jnp.zeros((2, *CONFIG.grid, CONFIG.dim)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamzoo.zoo.segment.propagate.mend.Mend.__call__", made)
        carry, out = module.apply(variables, module.init_carry(1), film(3, 2), None, prompts)
    other = np.asarray(carry.prompted.values["other"])[0, 0].any(0).reshape(CONFIG.grid)
    assert other[1:4, 6:8].all() and not other[:, :4].any()
    shown = np.asarray(out.masks[0, :, 0]) > 0
    assert shown[0, 2:8, 2:8].all() and not shown[:, :, 12:].any()


def test_what_is_found_beside_a_given_mask_is_no_other(fresh):
    module, variables, step = fresh
    prompts = no_prompts(1, 1, 2, 3, SIZE)
    prompts.masks[0, 0, 0, 8:40, 16:48], prompts.masked[0, 0, 0] = True, True
    carry, _ = step(variables, module.init_carry(1), film(3, 1), None, prompts)
    assert not np.asarray(carry.prompted.values["other"]).any()
    np.testing.assert_array_equal(carry.place.cells[0, 0], prompts.masks[0, 0, 0][4::8, 4::8])


@pytest.fixture(scope="module")
def subject(fresh):
    module, variables, _ = fresh
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        small = leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2
        noise = rng.normal(size=leaf.shape) * small
        return leaf + jnp.asarray(noise * (path[1].key != "trunk"), leaf.dtype)

    lively = jax.tree_util.tree_map_with_path(draw, variables)

    def step(carry, x, valid):
        return module.apply(lively, carry, x[0], valid, x[1])

    def inputs(seed, batch, steps):
        draw = np.random.default_rng(seed)
        prompts = no_prompts(batch, steps, 2, 3, SIZE)
        prompts.points[:] = draw.uniform(1, 47, prompts.points.shape)
        prompts.labels[..., 0] = 1
        prompts.pointed[:, 0, 0] = True
        prompts.masks[..., 5:40, 8:50] = True
        prompts.masked[:, 2:3, 1] = True
        return jax.tree.map(jnp.asarray, (film(seed, steps, batch), prompts))

    return Subject(module.init_carry, step, inputs, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_contract(subject, law):
    verify_contract(subject, (law,))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_size": (100, 64)}, "multiples of 16"),
        ({"reach": 0}, "reach is 0; at least 1"),
        ({"near": -1}, "near is -1; at least 0"),
    ],
)
def test_configs_that_cannot_be_built(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.slow
def test_the_tracker_that_comes_with_the_package():
    if not list_models("tracker-lite0/*"):
        pytest.skip("no trained tracker comes with this version")
    name = "tracker-lite0/davis"
    card = zoo.model_card(name)
    assert "DAVIS" in card.trained_on and "J&F" in card.metric
    assert card.weights and (BUNDLED / card.weights).stat().st_size < 3e6
    stored, header = load_file(find_weights(name))
    assert "trunk" not in stored["params"] and "lite0/imagenet" in header["parts"]
    _, variables = zoo.load(name, objects=1)
    trunk, known = variables["params"]["trunk"], zoo.load_weights("efficientnet-lite0/imagenet")
    np.testing.assert_array_equal(trunk["stem_kernel"], known["params"]["stem_kernel"])
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(variables))

"""Learning to track: the losses are right, prompts say what the mask says, and a gradient reaches
the memory through the carry."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo import zoo
from streamzoo.train import track
from streamzoo.train.base import split
from streamzoo.train.data.base import DataError
from streamzoo.train.track import Track, TrackConfig, TrackRecipe
from streamzoo.train.track.losses import TERMS, compare, dice_loss, pixel_loss
from streamzoo.train.track.metrics import track_metrics
from streamzoo.train.track.prompts import first_prompt, inner_point
from streamzoo.zoo.encode.efficientnet.model import EfficientNetLiteConfig, Stage
from streamzoo.zoo.registry import Card
from streamzoo.zoo.segment.propagate.model import PropagateConfig, Propagator
from streamzoo.zoo.segment.stream import Tracks

STAGES = (
    Stage(3, 1, 4, 1, 1),
    Stage(3, 1, 6, 2, 2),
    Stage(3, 1, 8, 2, 2),
    Stage(3, 1, 10, 2, 2),
    Stage(3, 1, 12, 2, 1),
    Stage(3, 1, 14, 2, 2),
)
TINY = PropagateConfig(
    image_size=(32, 32),
    trunk=EfficientNetLiteConfig(stem=4, stages=STAGES, head=0, num_classes=0),
    dim=8,
    values=3,
    objects=1,
    points=2,
    prompted_slots=1,
    memories=2,
    memory_dtype="float32",
)
CARD = Card("toy-tracker", input_size=(32, 32))


def squares(steps=3, batch=2):
    """Frames of a bright square that moves, and its masks."""
    frames = np.full((batch, steps, 32, 32, 3), 40, np.uint8)
    masks = np.zeros((batch, steps, 32, 32), bool)
    for b in range(batch):
        for t in range(steps):
            masks[b, t, 8 + 4 * b : 20 + 4 * b, 4 + 4 * t : 16 + 4 * t] = True
    frames[masks] = 220
    return {"frames": frames, "masks": masks}


# --- losses ----------------------------------------------------------------------------------


def test_pixel_and_dice_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 5, 6)), rng.uniform(size=(2, 5, 6))
    p = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean((1, 2))
    np.testing.assert_allclose(
        pixel_loss(jnp.asarray(logits), jnp.asarray(target)), entropy, rtol=1e-5
    )
    both = 2 * (p * target).sum((1, 2)) + 1
    dice = 1 - both / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    np.testing.assert_allclose(dice_loss(jnp.asarray(logits), jnp.asarray(target)), dice, rtol=1e-5)


def tracks(masks, scores=9.0, iou=1.0):
    """An answer that is right everywhere, for masks [B, T, 32, 32] in blocks of 4 x 4."""
    small = jnp.where(jnp.asarray(masks[:, :, ::4, ::4]), 20.0, -20.0)
    lead = masks.shape[:2]
    there = masks.any((2, 3))
    return Tracks(
        masks=small[:, :, None],
        scores=jnp.where(there, scores, -scores)[..., None],
        iou=jnp.full((*lead, 1), iou),
        active=jnp.ones((*lead, 1), bool),
    )  # pyright: ignore


def test_a_perfect_answer_costs_nothing_and_the_first_frame_is_not_asked():
    masks = np.kron(np.eye(8, dtype=bool), np.ones((4, 4), bool))[None, None].repeat(3, 1)
    masks[:, 2] = False  # gone: nothing to draw there, but its absence counts
    asked = jnp.asarray([[False, True, True]])
    right = compare(tracks(masks), jnp.asarray(masks), asked)
    assert float(right["iou"]) == pytest.approx(1.0)
    for name in TERMS:
        assert float(right[name]) < 0.05, name
    wrong = tracks(masks)
    flipped = dataclasses.replace(wrong, masks=-wrong.masks, scores=-wrong.scores)
    bad = compare(flipped, jnp.asarray(masks), asked)
    assert bad["pixels"] > 5 and bad["dice"] > 0.9 and bad["presence"] > 5 and bad["iou"] == 0
    unasked = dataclasses.replace(wrong, masks=wrong.masks.at[:, 0].multiply(-1))
    same = compare(unasked, jnp.asarray(masks), asked)
    assert all(float(same[n]) == float(right[n]) for n in right)


# --- prompts ---------------------------------------------------------------------------------


def test_prompts_are_of_the_first_frame_and_of_all_three_kinds():
    masks = np.zeros((64, 2, 16, 24), bool)
    masks[:, 0, 3:9, 5:20] = True
    prompts = first_prompt(jax.random.key(0), jnp.asarray(masks), 3, (1.0, 1.0, 1.0))
    assert prompts.labels.shape == (64, 2, 1, 3) and not np.asarray(prompts.remove).any()
    first = jax.tree.map(lambda a: np.asarray(a)[:, 0, 0], prompts)
    later = jax.tree.map(lambda a: np.asarray(a)[:, 1, 0], prompts)
    assert not later.pointed.any() and not later.masked.any()
    boxed = (first.labels[:, 0] == 2) & first.pointed
    clicked = (first.labels[:, 0] == 1) & first.pointed
    assert (boxed.astype(int) + clicked + first.masked == 1).all()
    assert min(boxed.sum(), clicked.sum(), first.masked.sum()) > 8
    assert (first.points[boxed, :2] == [[5, 3], [20, 9]]).all()
    assert (first.labels[boxed] == [2, 3, -10]).all()
    x, y = first.points[clicked, 0].T
    assert masks[0, 0][y.astype(int), x.astype(int)].all() and len(set(x)) > 3
    assert (first.labels[clicked, 1:] == -10).all()
    np.testing.assert_array_equal(first.masks, masks[:, 0])


def test_a_point_deep_inside():
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:18] = True  # a long arm
    mask[8:17, 5:14] = True
    assert inner_point(mask) == (9.5, 12.5)
    with pytest.raises(ValueError, match="empty mask"):
        inner_point(np.zeros((4, 4), bool))


# --- the task --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task():
    module = Propagator(TINY)
    carry, frames = module.init_carry(1), jnp.zeros((1, 1, 32, 32, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), carry, frames))()
    return Track(module, CARD, variables, TrackConfig(prompts=(1.0, 0.0, 0.0)))


@pytest.mark.slow  # long to compile
def test_it_learns_and_the_gradient_reaches_the_memory(task):
    slope = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    batch, key = squares(), jax.random.key(1)
    params = task.init(key)
    assert "trunk" not in params
    adam = optax.adam(1e-2)
    state, losses, terms, moved = adam.init(params), [], [], dict.fromkeys(params, 0.0)
    for _ in range(60):
        (loss, (_, found)), grad = slope(params, task.constants, (), key, batch)
        losses.append(float(loss))
        terms.append(float(found["iou"]))
        for name, part in grad.items():
            size = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(part))
            moved[name] = max(moved[name], size)
        change, state = adam.update(grad, state)
        params = optax.apply_updates(params, change)
    assert min(moved.values()) > 1e-5, moved
    assert losses[-1] < 0.3 * losses[0] and terms[-1] > 0.8, (losses[::10], terms[::10])


def test_the_trunk_stays_as_it_is():
    variables = {"params": {"trunk": {"stem_kernel": 0}, "mend": 1}}
    params, frozen = split(variables, Track.apart)
    assert params == {"mend": 1} and frozen == {"trunk": {"stem_kernel": 0}}


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="parts of mask, box, point"):
        TrackConfig(prompts=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="objects=1"):
        Track(Propagator(dataclasses.replace(TINY, objects=2)), CARD, {"params": {}})
    with pytest.raises(DataError, match="dog is in sequences and in held_out"):
        TrackRecipe(sequences=("dog",), held_out=("dog", "cows")).build()
    with pytest.raises(DataError, match="no test data: set held_out"):
        TrackRecipe().measure({})


def test_figures_of_a_perfect_and_a_lost_track():
    truth = np.zeros((20, 16, 24), np.uint8)
    truth[:, 4:10, 5:15] = 1
    lost = truth.copy()
    lost[9:] = np.roll(lost[9:], 12, axis=2) * 0
    found = track_metrics([("a", (truth, truth)), ("b", (truth, lost))])
    assert found["J&F/a"] == pytest.approx(1.0) and found["J&F/b"] == pytest.approx(8 / 18)
    assert found["kept"] == pytest.approx((1 + 9 / 20) / 2)
    assert found["J&F"] == pytest.approx((1 + 8 / 18) / 2)


def test_the_card_of_the_tracker_is_its_trunks():
    ours, trunk = zoo.model_card("tracker-lite0"), zoo.model_card(track.TRUNK)
    assert (ours.mean, ours.std, ours.value_range) == (trunk.mean, trunk.std, trunk.value_range)

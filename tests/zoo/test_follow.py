"""The pipeline as one model: the detector's boxes, the tracker's ids, the carry law."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.streaming import open_source
from streamzoo.streaming.cli import demo_clip
from streamzoo.zoo.action.decision import Decision
from streamzoo.zoo.action.person import Crops, PersonAction, PersonConfig
from streamzoo.zoo.detect import YOLOX
from streamzoo.zoo.track import (
    BoxTracker,
    Follow,
    FollowAct,
    FollowActConfig,
    FollowConfig,
    TrackerConfig,
)
from streamzoo.zoo.track.follow.model import _cuts, brightness
from streamzoo.zoo.trees import flatten

NAME = "follow-nano/coco"
SMALL = (96, 160)
CELLS = (18, 64), (16, 128), (4,)  # of a person's crops


@pytest.fixture(scope="module")
def loaded():
    """At a small input: what is tested is how the parts go together."""
    config = streamzoo.zoo.model_config(NAME)
    detector = dataclasses.replace(config.detector, image_size=SMALL, threshold=0.02, slots=8)
    tracker = dataclasses.replace(
        config.tracker, slots=8, low=0.02, high=0.05, begin=0.05, groups=(), keep=2, coast=1
    )
    return streamzoo.load(NAME, detector=vars(detector), tracker=vars(tracker))


@functools.cache
def film():
    """The demo clip, uint8 [250, 96, 160, 3]."""
    with open_source(demo_clip(), size=SMALL) as source:
        return np.stack([frame.image for frame in source])


def scenes(seed, batch, steps):
    """Frames of a street with a cyclist, another moment for each stream."""
    starts = [102 + (7 * seed + 3 * b) % 20 for b in range(batch)]
    return jnp.asarray(np.stack([film()[s : s + steps] for s in starts]), jnp.float32)


def test_it_is_the_detector_and_then_the_tracker(loaded):
    model, params = loaded
    frames = scenes(0, 1, 6)
    _, got = jax.jit(model.apply)(params, model.init_carry(1), frames)
    _, found = jax.jit(YOLOX(model.config.detector).apply)(params, (), frames)
    tracker = BoxTracker(model.config.tracker)
    carry = tracker.init_carry(1)
    _, want = jax.jit(tracker)(carry, found.boxes, found.scores, found.labels, found.valid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
    assert np.asarray(got.valid).any() and np.asarray(got.detection_ids).max() > 1


def test_its_parameters_are_those_of_the_detector(loaded):
    theirs = flatten(streamzoo.load("yolox-nano/coco")[1])
    ours = flatten(loaded[1])
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    cards = [streamzoo.model_card(n) for n in (NAME, "yolox-nano/coco")]
    assert cards[0].weights == cards[1].weights and cards[0].sha256 == cards[1].sha256


@pytest.mark.slow
def test_the_carry_law(loaded):
    """What of it is not the tracker's own: its tests hold the rest."""
    model, params = loaded
    subject = Subject(
        model.init_carry,
        lambda carry, x, valid: model.apply(params, carry, x, valid),
        scenes,
        atol=1e-4,
    )
    contract.check_fixed_point(subject)
    contract.check_gaps(subject, steps=3, batch=1, seeds=1)
    x = scenes(1, 1, 4)
    want = subject.jitted(model.init_carry(1), x, None)
    got = subject.run(model.init_carry(1), x, [1] * 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, want)


@pytest.mark.slow
def test_what_each_does_is_what_he_does_alone(loaded):
    """Brute force: the action part on the crops of one track, and on nothing else."""
    follow, params = loaded
    decision = Decision(several=False, on=0.36, off=0.3, hold=2)
    person = PersonConfig(("a", "b", "c"), 6, 2, decision=decision)
    model = FollowAct(FollowActConfig(follow.config, person, labels=tuple(range(80))))
    frames = scenes(0, 1, 8)
    alone, one = PersonAction(person), Crops(*(jnp.zeros((1, 1, 1, *a)) for a in CELLS))
    actions = alone.init(jax.random.key(1), alone.init_carry(1), one)
    tree = {"follow": params["params"], "person": {"module": actions["params"]}}

    @jax.jit
    def run(carry, frames):
        _, out = model.apply({"params": tree}, carry, frames)
        return out, model.apply({"params": tree}, carry.follow, frames, method="persons")[2:]

    out, (crops, there) = run(model.init_carry(1), frames)
    once = jax.jit(lambda carry, x: alone.apply(actions, carry, x))
    there, held = np.asarray(there)[0], np.asarray(out.held)[0]
    assert (there <= (held > 0)).all()
    lengths = []
    for slot in np.flatnonzero(there.any(0)):
        who, state = 0, alone.init_carry(1)
        for t in np.flatnonzero(there[:, slot]):
            if held[t, slot] != who:  # a person that comes to a slot that another one had
                who, state = held[t, slot], alone.init_carry(1)
                lengths.append(0)
            cut = jax.tree.map(lambda a, t=t, slot=slot: a[:, t : t + 1, slot : slot + 1], crops)
            state, want = once(state, cut)
            scores, known = out.action_scores[0, t, slot], out.action_known[0, t, slot]
            np.testing.assert_allclose(scores, want.scores[0, 0, 0], atol=1e-5)
            np.testing.assert_array_equal(known, want.known[0, 0, 0])
            lengths[-1] += 1
    assert max(lengths) > 3 and len(lengths) > there.any(0).sum()  # some slot changed hands
    assert np.asarray(out.action_known).any()
    assert not np.asarray(out.action_scores)[0][~there].any()


def test_a_slot_is_held_for_as_long_as_its_track_may_come_back():
    tracker = BoxTracker(TrackerConfig(slots=2, keep=3, coast=1, confirm=2))
    boxes = np.tile(np.asarray([0.2, 0.2, 0.4, 0.8], np.float32), (1, 14, 1, 1))
    there = np.zeros((1, 14, 1), bool)
    there[0, [0, 1, 4, 9, 10, 11]] = True  # lost for two frames, then gone, then another
    scores = np.full((1, 14, 1), 0.9, np.float32)
    _, out = tracker(tracker.init_carry(1), boxes, scores, None, there)
    held = np.asarray(out.held)[0]
    assert held[:, 0].tolist() == [1] * 8 + [0, 0, 2, 2, 2, 2] and not held[:, 1].any()
    assert (np.asarray(out.ids)[0, :, 0] == [1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 2, 2, 2, 0]).all()


def test_another_shot_begins_with_new_ids_and_no_ghosts():
    """In a film of two shots; without the rule a track coasts into the second."""
    tracker, k = BoxTracker(TrackerConfig(coast=5)), 3
    boxes = np.zeros((1, 12, k, 4), np.float32)
    boxes[0, :, 0] = [0.2, 0.2, 0.4, 0.8]
    boxes[0, 6:, 1] = [0.6, 0.2, 0.8, 0.8]
    there = np.zeros((1, 12, k), bool)
    there[0, :6, 0], there[0, 6:, 1] = True, True
    scores = np.full((1, 12, k), 0.9, np.float32)
    cut = np.arange(12)[None] == 6
    _, plain = tracker(tracker.init_carry(1), boxes, scores, None, there)
    _, told = tracker(tracker.init_carry(1), boxes, scores, None, there, cut=cut)
    assert np.asarray(plain.valid)[0, 7].sum() == 2  # one of them a ghost
    assert not np.asarray(told.valid)[0, 6].any() and np.asarray(told.valid)[0, 7:].sum() == 5
    assert set(np.asarray(told.ids)[0, 7:].ravel()) == {0, 2}


def test_a_cut_is_a_great_change_of_all_and_a_moving_thing_is_none():
    model = streamzoo.create_model(NAME)
    frames = np.full((1, 6, 90, 160, 3), 90.0, np.float32)
    frames[0, :, 20:80, 30:40] = 250
    frames[0, 2:, 20:80, 30:40] = 90  # it has moved within a frame
    frames[0, 2:, 20:80, 80:90] = 250
    frames[0, 4:] = 255 - frames[0, 4:]
    cells = brightness(jnp.asarray(frames))
    last, cut = _cuts(model.config.cut, model.init_carry(1).last, cells, None)
    assert np.asarray(cut)[0].tolist() == [False] * 4 + [True, False]
    np.testing.assert_array_equal(last, cells[:, -1])
    valid = np.arange(6)[None] != 3
    np.testing.assert_array_equal(_cuts(0.12, model.init_carry(1).last, cells, valid)[1], cut)
    assert not np.asarray(_cuts(1.0, model.init_carry(1).last, cells, None)[1]).any()


def test_the_grey_beside_a_letterboxed_picture_hides_no_cut():
    """A batch of several shapes has it; the change of the picture alone counts."""
    frames = np.full((1, 4, 90, 160, 3), 90.0, np.float32)
    frames[0, 2:] += 40  # a change of 0.157 of the range: over 0.12, and half of it below
    padded = np.full((1, 4, 160, 160, 3), 114.0, np.float32)
    padded[:, :, :90] = frames
    first = streamzoo.create_model(NAME).init_carry(1).last
    for pictures in (frames, padded, padded / 255 * 255):
        cut = _cuts(0.12, first, brightness(jnp.asarray(pictures)), None)[1]
        assert np.asarray(cut)[0].tolist() == [False, False, True, False]


def test_a_part_is_changed_as_a_field_is():
    config = streamzoo.zoo.model_config(NAME, tracker={"keep": 60}, detector={"slots": 7})
    assert config.tracker.keep == 60 and config.detector.slots == 7
    assert config.tracker.groups == streamzoo.zoo.model_config(NAME).tracker.groups
    with pytest.raises(ValueError, match="has no field 'keeps'"):
        streamzoo.zoo.model_config(NAME, tracker={"keeps": 60})
    with pytest.raises(ValueError, match="the detector gives none"):
        FollowConfig(tracker=TrackerConfig(features=8))


def test_the_default_sees_what_may_be_unsure_and_tells_the_street_apart():
    config = streamzoo.zoo.model_config(NAME)
    assert config.detector.threshold <= config.tracker.low
    classes = streamzoo.model_card(NAME).classes
    groups = [{classes[label] for label in group} for group in config.tracker.groups]
    assert {"person"} in groups and {"bicycle", "motorcycle"} in groups
    assert {"car", "bus", "truck"} in groups
    assert Follow(config).init_carry(3).tracks.ids.shape == (3, config.tracker.slots)

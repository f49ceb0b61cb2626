"""The multi-object tracker: the reference's tracks, the carry law, and ids that last."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo.track import BoxTracker, TrackerConfig, box_features

DATA = Path(__file__).parents[1] / "parity" / "data" / "tracks.npz"
CASES = {  # as in tests/parity/golden_tracks.py
    "published": TrackerConfig(),
    "tuned": TrackerConfig(high=0.4, begin=0.5, match_high=0.1, match_new=0.2, match_low=0.4),
    "eager": TrackerConfig(
        high=0.3, begin=0.3, match_high=0.05, match_new=0.1, match_low=0.3, confirm=3, keep=60
    ),
}
K = 32


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(DATA))


def packed(data, clip, classes=(0,)):
    """Arrays [1, T, K, ...] of the recorded detections, and the rows they came from."""
    frame, wanted = data[f"{clip}/frame"], np.isin(data[f"{clip}/labels"], classes)
    steps = int(data[f"{clip}/size"][2])
    boxes, scores = np.zeros((1, steps, K, 4), np.float32), np.zeros((1, steps, K), np.float32)
    labels, row = np.zeros((1, steps, K), np.int32), np.full((1, steps, K), -1)
    for t in range(steps):
        at = np.flatnonzero((frame == t) & wanted)
        row[0, t, : len(at)] = at
        boxes[0, t, : len(at)] = data[f"{clip}/boxes"][at] / 65535
        scores[0, t, : len(at)] = data[f"{clip}/scores"][at] / 65535
        labels[0, t, : len(at)] = data[f"{clip}/labels"][at]
    return (boxes, scores, labels, row >= 0), row


def run(config, inputs):
    tracker = BoxTracker(config)
    return jax.jit(tracker)(tracker.init_carry(len(inputs[0])), *inputs)


@functools.cache
def program(config):
    tracker = BoxTracker(config)
    return jax.jit(lambda carry, x, valid: tracker(carry, *x, valid=valid))


def ids_of(config, inputs, chunk=32):
    """The id of each recorded detection, by one program for clips of any length."""
    carry, steps, parts = BoxTracker(config).init_carry(1), inputs[0].shape[1], []
    for at in range(0, steps, chunk):
        pads = max(0, at + chunk - steps)
        x = [np.concatenate([a[:, at : at + chunk], a[:, :pads]], axis=1) for a in inputs]
        valid = np.arange(at, at + chunk)[None] < steps
        carry, out = program(config)(carry, x, valid)
        parts.append(np.asarray(out.detection_ids))
    return np.concatenate(parts, axis=1)[:, :steps][inputs[3]]


def one_to_one(a, b):
    """Every name of one is one name of the other, and none is none."""
    names = set(zip(a.tolist(), b.tolist(), strict=False))
    return len(names) == len({x for x, _ in names}) == len({y for _, y in names}) and (
        all((x == 0) == (y == 0) for x, y in names)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clip", ["vtest", "bikes"])
def test_tracks_are_those_of_the_reference(recorded, clip, case):
    """Every detection of 795 and 250 frames is in the same track, or in none."""
    inputs, row = packed(recorded, clip)
    want = recorded[f"{clip}/{case}"][row[inputs[3]]]
    got = ids_of(CASES[case], inputs)
    assert want.max() > 3 and one_to_one(got, want)


def test_groups_are_followed_as_if_each_were_alone(recorded):
    """Persons, bicycles and cars together are persons, bicycles and cars apart."""
    config = CASES["eager"]
    groups = ((0,), (1, 3), (2, 5, 7))
    inputs, row = packed(recorded, "bikes", sum(groups, ()))
    together = np.zeros(len(recorded["bikes/frame"]), int)
    together[row[inputs[3]]] = ids_of(dataclasses.replace(config, groups=groups), inputs)
    for group in groups:
        alone, row = packed(recorded, "bikes", group)
        got = ids_of(config, alone)
        assert got.max() > 0 and one_to_one(together[row[alone[3]]], got)


def test_a_class_that_is_not_tracked_gets_no_id(recorded):
    inputs, _ = packed(recorded, "bikes", (0, 1, 2, 3, 5, 7))
    _, out = run(TrackerConfig(high=0.3, begin=0.3, groups=((2,),)), inputs)
    of_cars = np.asarray(inputs[2])[np.asarray(out.detection_ids) > 0]
    assert len(of_cars) and set(of_cars) == {2}
    assert set(np.asarray(out.labels)[np.asarray(out.valid)]) == {2}


# --- made streams ------------------------------------------------------------------------------


def walkers(seed, batch, steps, count=5, k=8, features=0):
    """Boxes that walk and cross, with misses, low scores and false ones; leaves [B, T, k, ...]."""
    rng = np.random.default_rng(seed)
    start, speed = rng.random((batch, 1, count, 2)) * 0.8, rng.normal(0, 0.02, (batch, 1, count, 2))
    low = (
        start
        + speed * np.arange(steps)[:, None, None]
        + rng.normal(0, 0.003, (batch, steps, count, 2))
    )
    size = np.array([0.1, 0.25]) * rng.uniform(0.8, 1.2, (batch, 1, count, 1))
    boxes = np.zeros((batch, steps, k, 4), np.float32)
    boxes[:, :, :count] = np.concatenate([low, low + size + 0 * low], axis=-1)
    boxes[:, :, count] = rng.random((batch, steps, 4)) * 0.5 + [0, 0, 0.3, 0.3]
    x = {
        "boxes": jnp.asarray(boxes),
        "scores": jnp.asarray(rng.uniform(0.2, 1, (batch, steps, k)), jnp.float32),
        "there": jnp.asarray((rng.random((batch, steps, k)) < 0.9) & (np.arange(k) <= count)),
        "labels": jnp.asarray(rng.integers(0, 3, (batch, steps, k)), jnp.int32),
    }
    if features:
        looks = rng.normal(size=(batch, steps, k, features))
        x["features"] = jnp.asarray(looks, jnp.float32)
    return x


def subject(config):
    tracker = BoxTracker(config)

    def step(carry, x, valid):
        return tracker(carry, **x, valid=valid)

    return Subject(
        tracker.init_carry,
        step,
        lambda seed, batch, steps: walkers(seed, batch, steps, features=config.features),
    )


WHOLE = TrackerConfig(
    slots=6, keep=3, coast=2, high=0.4, begin=0.4, groups=((0, 1), (2,)), features=4
)


@pytest.mark.slow
def test_the_carry_law_in_short():
    """All of it is slow."""
    s = subject(WHOLE)
    contract.check_fixed_point(s)
    contract.check_slots(s)
    contract.check_gaps(s, steps=3, batch=1, seeds=1)


@pytest.mark.slow
def test_the_carry_law():
    """But for gradients: ids have none."""
    laws = [
        law for law in contract.LAWS if law.__name__ not in ("check_gradients", "check_causality")
    ]
    contract.verify_contract(subject(WHOLE), laws)


def test_later_frames_change_nothing_before():
    """Law 2, where gradients say nothing: another future, the same past."""
    s = subject(WHOLE)
    x, other = s.make_input(0, 2, 8), s.make_input(1, 2, 8)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:, :5], b[:, 5:]], axis=1), x, other)
    want, got = s.jitted(s.init_carry(2), x, None)[1], s.jitted(s.init_carry(2), mixed, None)[1]
    early = lambda out: jax.tree.map(lambda a: np.asarray(a[:, :5]), out)
    jax.tree.map(np.testing.assert_array_equal, early(got), early(want))
    assert not np.array_equal(got.ids, want.ids)


def test_a_year_of_frames_changes_ids_alone():
    """Of all counters only the last id grows, and names come round before int32 is full."""
    s = subject(WHOLE)
    carry, _ = s.jitted(s.init_carry(1), walkers(0, 1, 12, features=4), None)
    x, after = walkers(1, 1, 12, features=4), 2**31 - 3
    _, want = s.jitted(carry, x, None)
    old, got = s.jitted(carry._replace(last_id=jnp.full_like(carry.last_id, after)), x, None)
    ids, names = np.asarray(got.ids), np.asarray(want.ids)
    assert one_to_one(ids.reshape(-1), names.reshape(-1))
    assert ids.max() == 2**31 - 1 and ids.min() >= 0 and 0 < int(old.last_id[0]) < 20
    assert max(int(np.abs(a).max()) for a in (carry.hits, carry.missed)) <= 4  # the rest is bounded


def film(places, scores=None, size=(0.1, 0.3), k=4):
    """[1, T, k, ...] of the places (x, y of the top left corner) of each frame, None for unseen."""
    steps = len(places)
    boxes, there = np.zeros((1, steps, k, 4), np.float32), np.zeros((1, steps, k), bool)
    for t, frame in enumerate(places):
        for j, place in enumerate(frame):
            if place is not None:
                boxes[0, t, j], there[0, t, j] = [*place, *np.add(place, size)], True
    scores = np.full((1, steps, k), 0.9, np.float32) if scores is None else scores
    return boxes, scores, np.zeros((1, steps, k), np.int32), there


def test_an_id_lasts_through_an_occlusion():
    """One walks behind another for 12 frames and keeps its id; so does the other."""
    hidden = range(14, 26)
    places = [
        [(0.1 + 0.015 * t, 0.4) if t not in hidden else None, (0.42, 0.42)] for t in range(40)
    ]
    _, out = run(TrackerConfig(), film(places))
    ids = np.asarray(out.detection_ids)[0]
    seen = [t for t in range(40) if t not in hidden]
    assert set(ids[seen, 0]) == {1} and set(ids[:, 1]) == {2}
    _, forgets = run(TrackerConfig(keep=5), film(places))
    assert np.asarray(forgets.detection_ids)[0, -1, 0] == 3  # not by chance: it was remembered


def test_low_scores_go_on_with_a_track_and_begin_none():
    places = [[(0.1 + 0.01 * t, 0.4)] for t in range(20)]
    scores = np.full((1, 20, 4), 0.9, np.float32)
    scores[:, 8:] = 0.3
    _, out = run(TrackerConfig(), film(places, scores))
    assert set(np.asarray(out.detection_ids)[0, :, 0]) == {1}
    _, out = run(TrackerConfig(), film(places, np.full_like(scores, 0.3)))
    assert not np.asarray(out.detection_ids).any()


def test_a_lost_track_coasts_at_its_pace_and_no_longer_than_said():
    places = [[(0.1 + 0.02 * t, 0.4)] if t < 15 else [None] for t in range(25)]
    _, out = run(TrackerConfig(coast=4), film(places))
    valid, seen = (np.asarray(a)[0].any(axis=-1) for a in (out.valid, out.seen))
    assert (
        valid.tolist() == [True] * 19 + [False] * 6 and seen.tolist() == [True] * 15 + [False] * 10
    )
    x = np.asarray(out.boxes)[0, 18, np.flatnonzero(out.valid[0, 18])[0]]
    np.testing.assert_allclose(x[0], 0.1 + 0.02 * 18, atol=0.01)
    assert not np.asarray(out.boxes)[0, 20:].any() and not np.asarray(out.ids)[0, 20:].any()


@pytest.mark.slow
def test_a_frame_without_detections_is_not_a_gap():
    """The tracks move on in one, and stand still in the other."""
    boxes, scores, labels, there = film([[(0.1 + 0.02 * t, 0.4)] for t in range(10)])
    tracker = BoxTracker(TrackerConfig())
    carry, _ = tracker(tracker.init_carry(1), boxes, scores, labels, there)
    blank = np.zeros((1, 1, 4), bool)
    moved, _ = tracker(carry, boxes[:, :1], scores[:, :1], labels[:, :1], blank)
    held, _ = tracker(
        carry,
        boxes[:, :1],
        scores[:, :1],
        labels[:, :1],
        there[:, :1],
        valid=np.zeros((1, 1), bool),
    )
    assert float(moved.mean[0, 0, 0, 0]) > float(carry.mean[0, 0, 0, 0]) + 0.01
    jax.tree.map(np.testing.assert_array_equal, held, carry)


@pytest.mark.slow
def test_skipped_frames_are_as_frames_in_which_nothing_was_found():
    """Every fourth frame with ``elapsed`` 4, against all of them with nothing between."""
    places = [[(0.1 + 0.01 * t, 0.4)] for t in range(12)]
    places += [[(0.1 + 0.01 * t, 0.4)] if t % 4 == 3 else [None] for t in range(12, 32)]
    boxes, scores, labels, there = film(places)
    kept = [t for t in range(32) if t < 12 or t % 4 == 3]
    tracker = BoxTracker(TrackerConfig(slots=4))
    carry = tracker.init_carry(1)
    whole, out = tracker(carry, boxes, scores, labels, there)
    elapsed = np.diff(kept, prepend=-1)[None]
    part = [a[:, kept] for a in (boxes, scores, labels, there)]
    skipped, quick = tracker(carry, *part, elapsed=elapsed)
    np.testing.assert_array_equal(quick.detection_ids, np.asarray(out.detection_ids)[:, kept])
    np.testing.assert_allclose(skipped.mean, whole.mean, atol=2e-5)
    np.testing.assert_allclose(skipped.cov, whole.cov, atol=1e-7)
    blank = [a[:, :1] for a in (boxes, scores, labels, np.zeros_like(there))]
    for frames in (30, 31):  # 30 unseen are remembered, however few frames show it
        lost, _ = tracker(skipped, *blank, elapsed=np.full((1, 1), frames))
        assert bool((lost.hits > 0).any()) == (frames <= 30)
    with pytest.raises(ValueError, match=r"elapsed \[1\] should be"):
        tracker(carry, boxes, scores, labels, there, elapsed=np.ones(1, int))


def test_in_a_still_scene_it_does_not_matter_how_much_time_passes():
    """The same boxes again and again: the same tracks, to the bit of a place, at any pace."""
    film_of = film([[(0.2, 0.3), (0.6, 0.4)] for _ in range(12)])
    tracker = BoxTracker(TrackerConfig(slots=4))
    elapsed = np.random.default_rng(0).integers(1, 30, (1, 12))
    _, one = tracker(tracker.init_carry(1), *film_of)
    _, any_pace = tracker(tracker.init_carry(1), *film_of, elapsed=elapsed)
    np.testing.assert_array_equal(any_pace.ids, one.ids)
    np.testing.assert_array_equal(any_pace.detection_ids, one.detection_ids)
    np.testing.assert_allclose(any_pace.boxes, one.boxes, atol=1e-6)


def test_a_full_house_forgets_who_was_lost_the_longest():
    config = TrackerConfig(slots=3, confirm=1)
    first = [[(0.0, 0.1), (0.3, 0.1), (0.6, 0.1)]] * 3
    without_0 = [[None, (0.3, 0.1), (0.6, 0.1)]] * 2
    without_1 = [[None, None, (0.6, 0.1)]] * 2  # the first has been lost for longer
    new = [[None, None, (0.6, 0.1), (0.8, 0.6)]] * 3
    back = [[(0.0, 0.1), (0.3, 0.1), (0.6, 0.1), (0.8, 0.6)]] * 2
    _, out = run(config, film(first + without_0 + without_1 + new + back))
    ids = np.asarray(out.detection_ids)[0]
    assert ids[0].tolist()[:3] == [1, 2, 3]
    assert ids[-1].tolist() == [0, 2, 3, 4]  # 2 was found again; for the first no slot is left
    assert np.asarray(out.valid).sum(-1).max() == 3


def test_the_label_is_the_one_with_most_of_the_score():
    places = [[(0.3, 0.3)]] * 12
    boxes, scores, labels, there = film(places)
    labels[0, :, 0] = [2, 2, 7, 2, 2, 7, 2, 7, 7, 7, 7, 7]
    _, out = run(TrackerConfig(groups=((2, 7),)), (boxes, scores, labels, there))
    slot = np.flatnonzero(out.valid[0, -1])[0]
    got = np.asarray(out.labels)[0, :, slot].tolist()
    assert got[:9] == [2] * 9 and got[-1] == 7
    assert set(np.asarray(out.detection_ids)[0, :, 0]) == {1}


@pytest.mark.slow
def test_appearance_decides_where_overlap_cannot():
    """Two stand nearly on one another and change places while nobody looks."""
    a, b = (0.40, 0.4), (0.43, 0.4)
    places = [[a, b]] * 5 + [[None, None]] * 2 + [[b, a]] * 5
    boxes, scores, labels, there = film(places)
    looks = np.zeros((1, len(places), 4, 3), np.float32)
    looks[0, :, 0], looks[0, :, 1] = [1, 0.2, 0], [0.2, 1, 0]
    _, out = run(TrackerConfig(), (boxes, scores, labels, there))
    assert np.asarray(out.detection_ids)[0, -1].tolist()[:2] == [2, 1]  # by place
    _, out = run(TrackerConfig(features=3), (boxes, scores, labels, there, looks))
    assert np.asarray(out.detection_ids)[0, -1].tolist()[:2] == [1, 2]  # by looks
    far = TrackerConfig(features=3, near=0.95)
    _, out = run(far, (boxes, scores, labels, there, looks))
    assert np.asarray(out.detection_ids)[0, -1].tolist()[:2] == [2, 1]  # too far for looks to count


def test_box_features_are_the_mean_of_the_map_in_the_box():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(1, 8, 8, 5)).astype(np.float32)
    boxes = np.array([[[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0], [0, 0, 0, 0]]], np.float32)
    flat = np.repeat(np.repeat(grid, 1, axis=1), 1, axis=2)
    got = np.asarray(box_features(flat, boxes, np.array([[True, True, False]])))[0]
    means = [grid[0, 4:8, 2:4].mean((0, 1)), grid[0].mean((0, 1))]
    for have, mean in zip(got, means, strict=False):
        assert have @ (mean / np.linalg.norm(mean)) > 0.9 and np.linalg.norm(have) == pytest.approx(
            1
        )
    assert not got[2].any()


def test_nothing_in_empty_slots_is_read():
    x = walkers(0, 1, 11, features=4)
    holes = ~x["there"]
    poisoned = dict(
        x,
        boxes=jnp.where(holes[..., None], jnp.nan, x["boxes"]),
        scores=jnp.where(holes, jnp.nan, x["scores"]),
        labels=jnp.where(holes, 10**6, x["labels"]),
    )
    s = subject(WHOLE)
    want, got = (s.jitted(s.init_carry(1), y, None) for y in (x, poisoned))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(slots=0), "slots is at least 1"),
        (dict(memory=1.5), "memory is 0 to 1"),
        (dict(groups=((-1,),)), "groups is"),
        (dict(keep=3, coast=4), "coast=4"),
        (dict(low=0.7), "low=0.7"),
        (dict(begin=0.3), "begin=0.3"),
        (dict(groups=((0, 1), (1,))), "once"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TrackerConfig(**change)


def test_arrays_that_do_not_fit_are_refused():
    boxes, scores, labels, there = film([[(0.1, 0.1)]])
    tracker = BoxTracker(TrackerConfig(groups=((0,),)))
    carry = tracker.init_carry(1)
    with pytest.raises(ValueError, match="give labels"):
        tracker(carry, boxes, scores)
    with pytest.raises(ValueError, match=r"scores \[1, 1, 3\] should be \[1, 1, 4\]"):
        tracker(carry, boxes, scores[..., :3], labels)
    with pytest.raises(ValueError, match=r"boxes \[1, 4, 4\]"):
        tracker(carry, boxes[0], scores, labels)
    with pytest.raises(ValueError, match="features: none came"):
        BoxTracker(TrackerConfig(features=3))(carry, boxes, scores, labels)

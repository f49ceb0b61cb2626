"""Many cameras: no camera alone knows the label, the truth is right, and the task learns."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.train.data import handover
from streamzoo.train.data.base import DataError
from streamzoo.train.data.handover import FRAMES, CameraClips, Scenes, annotate, deal, draw_scene
from streamzoo.train.live import Live, LiveLoss, LiveRecipe
from streamzoo.train.live import task as live_task
from streamzoo.train.live.losses import compare, future_loss, match_loss
from streamzoo.train.live.metrics import recognised, scene_metrics
from streamzoo.train.live.task import over_scenes
from streamzoo.train.metrics import auc, f1_score
from streamzoo.zoo.encode.stems import stem_width
from streamzoo.zoo.live import LiveConfig, LiveModel
from streamzoo.zoo.registry import Card

CLIPS = CameraClips(variants=3, size=(32, 48))


# --- no camera alone knows --------------------------------------------------------------------


def test_dealing_every_permutation_gives_every_camera_every_look_equally_under_any_label():
    """All permutations of few looks: a proof by enumeration, for each of the label's values."""
    looks, pairs, bystanders = 5, 2, 1
    for anomalous in itertools.product([False, True], repeat=pairs):
        hands = [deal(p, anomalous, bystanders) for p in itertools.permutations(range(looks))]
        for camera in range(2 * pairs + bystanders):
            count = collections.Counter(hand[camera] for hand in hands)
            assert count == {k: len(hands) // looks for k in range(looks)}
        for hand in hands:  # and together they do tell
            for pair, wrong in enumerate(anomalous):
                assert (hand[2 * pair] != hand[2 * pair + 1]) == wrong
            assert len(set(hand)) == 2 * pairs + bystanders - anomalous.count(False)


def test_a_clip_is_its_role_and_variant_in_other_colours():
    """Nothing but the actor's colours depends on the look: times, boxes, background and noise are
    those of role and variant, which are drawn without a look at the label."""
    for role in handover.ROLES:
        a, b = (CLIPS.number(role, look, 1) for look in (0, 5))
        assert CLIPS.crossing(a) == CLIPS.crossing(b)
        one, two = CLIPS.read(a, 0, FRAMES), CLIPS.read(b, 0, FRAMES)
        np.testing.assert_array_equal(one.boxes, two.boxes)
        other = (one.frames != two.frames).any(-1)
        assert other.any()
        y, x = np.mgrid[:32, :48] + 0.5
        edge = (one.boxes[:, 0] * [48, 32, 48, 32])[:, :, None, None]
        inside = (x > edge[:, 0] - 1.5) & (x < edge[:, 2] + 1.5)
        inside &= (y > edge[:, 1] - 1.5) & (y < edge[:, 3] + 1.5)
        full = one.box_valid[:, 0] & (one.boxes[:, 0, 0] > 0) & (one.boxes[:, 0, 2] < 1)
        assert not (other & ~inside)[full].any()
        away = np.abs(np.arange(FRAMES) - CLIPS.crossing(a)) < 1
        assert not other[away & ~one.box_valid[:, 0]].any()


def test_the_label_is_drawn_apart_from_a_cameras_clip():
    """Counts over many scenes: role, look and variant of a camera tell nothing of its label."""
    rng, counts = np.random.default_rng(0), collections.Counter()
    for _ in range(3000):
        scene = draw_scene(CLIPS, rng, 2, 1)
        for video, pair in zip(scene.videos, scene.pair, strict=True):
            if pair >= 0:
                counts[video, scene.anomalous[pair]] += 1
    rows = np.asarray([[counts[v, w] for w in (False, True)] for v in range(len(CLIPS))])
    rows = rows[rows.sum(1) > 0]
    assert len(rows) == 2 * handover.LOOKS * 3
    expected = rows.sum(1, keepdims=True) * rows.sum(0) / rows.sum()
    chi2 = ((rows - expected) ** 2 / expected).sum()
    assert chi2 < 87  # 47 degrees of freedom: p = 0.0003


# --- the truth --------------------------------------------------------------------------------


def test_the_truth_of_a_scene():
    for seed in range(20):
        scene = draw_scene(CLIPS, np.random.default_rng(seed), 2, 1)
        truth = annotate(CLIPS, scene)
        assert truth["judged"].tolist() == [p >= 0 for p in scene.pair]
        looks = truth["labels"][:, :, 0].max(1).argmax(-1)
        for camera, pair in enumerate(scene.pair):
            if pair < 0:
                assert not truth["anomaly"][camera].any() and truth["known"][camera].all()
                continue
            (other,) = [c for c, p in enumerate(scene.pair) if p == pair and c != camera]
            wrong = looks[camera] != looks[other]
            assert wrong == scene.anomalous[pair]
            times = sorted(CLIPS.crossing(scene.videos[c]) for c in (camera, other))
            assert 0 < times[1] - times[0] <= handover.LIMIT
            late = np.arange(FRAMES) >= times[0] + handover.LIMIT
            np.testing.assert_array_equal(truth["anomaly"][camera], late & wrong)
            assert truth["known"][camera][late][handover.SETTLE :].all()
            assert not truth["known"][camera][times[1] : times[0] + handover.LIMIT].any()
            on = np.flatnonzero(truth["event"][camera])
            assert on[0] == CLIPS.crossing(scene.videos[camera]) - 2 and len(on) == 5


def test_a_camera_never_changes():
    """The figures of the live models are of these pictures."""
    clip = CLIPS.read(CLIPS.number("leaves", 2, 1), 3, 2)
    assert zlib.crc32(clip.frames.tobytes()) == 2508599184


def test_actors_come_and_go():
    for video in range(len(CLIPS)):
        role = CLIPS.videos[video].split("/")[2]
        seen = CLIPS.annotations(video)["box_valid"][:, 0]
        cross = CLIPS.crossing(video)
        if role == "stays":
            assert seen.all() and cross == -1
        else:
            before, after = seen[:cross], seen[cross + 1 :]
            assert before[:1].all() and not after.any() if role == "leaves" else True
            assert after[-1:].all() and not before.any() if role == "enters" else True


def test_batches_are_a_function_of_seed_and_step_and_lanes():
    frames = lambda video: np.full((FRAMES, 1), video)
    whole, part = (Scenes(CLIPS, frames, lanes, 3) for lanes in (range(4), range(2, 4)))
    a, b = whole[7], part[7]
    assert a["frames"].shape == (4, 5, FRAMES, 1) and a["known"].shape == (4, 5, FRAMES)
    for name in a:
        np.testing.assert_array_equal(a[name][2:], b[name])
    assert (whole[8]["frames"] != a["frames"]).any()
    with pytest.raises(DataError, match="no more than 8 people"):
        Scenes(CLIPS, frames, range(1), 0, pairs=4, bystanders=1)


# --- scores -----------------------------------------------------------------------------------


def test_f1_and_auc_by_counting():
    rng = np.random.default_rng(0)
    scores, truth = np.round(rng.random(40), 1), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs))
    found = scores > 0.5
    precision, recall = truth[found].mean(), found[truth].mean()
    assert f1_score(found, truth) == pytest.approx(2 * precision * recall / (precision + recall))
    nothing = truth < 0
    assert np.isnan(auc(scores, ~nothing)) and np.isnan(f1_score(nothing, nothing))
    assert f1_score(nothing, ~nothing) == 0  # nothing was found of what is there


def test_the_score_of_a_camera_is_the_mean_after_the_time_limit():
    known = np.ones((1, 2, FRAMES), bool)
    known[:, :, 20:30] = False
    anomaly = np.zeros((1, 2, FRAMES), np.float32)
    anomaly[0, 0, 28:] = 1
    score = np.zeros((1, 2, FRAMES))
    score[0, 0, 30:] = 0.9  # right where it is asked
    score[0, 1, :30] = 0.9  # too early: does not count
    blank = dict(
        event_score=score, event=anomaly, class_score=np.zeros((1, 2, FRAMES, 8)),
        labels=np.zeros((1, 2, FRAMES, 1, 8)), iou=np.ones((1, 2, FRAMES)),
        box_valid=np.ones((1, 2, FRAMES, 1), bool), future=np.ones((1,)), repeat=np.full((1,), 2.0),
    )  # fmt: skip
    row = dict(anomaly_score=score, anomaly=anomaly, known=known, judged=np.ones((1, 2), bool))
    got = scene_metrics([row | blank])
    assert (got["anomaly_f1"], got["anomaly_auc"], got["future"]) == (1.0, 1.0, 0.5)
    flipped = scene_metrics([row | blank | dict(anomaly_score=score[:, ::-1])])
    assert (flipped["anomaly_f1"], flipped["anomaly_auc"]) == (0.0, 0.0)
    never = row | blank | dict(known=np.ones_like(known), repeat=np.zeros(1), future=np.zeros(1))
    got = scene_metrics([never | dict(box_valid=np.zeros((1, 2, FRAMES, 1), bool))])
    for name in ("anomaly_f1", "anomaly_auc", "always_f1", "class_f1", "iou", "future"):
        assert np.isnan(got[name]), name


def test_the_expected_next_feature_is_compared_with_repeating_the_last():
    x = jnp.cumsum(jnp.ones((2, 5, 3)), axis=1)
    assert future_loss(x + 1, x) == (0.0, 1.0)
    grad = jax.grad(lambda f: future_loss(x, f)[0])(x)
    assert float(jnp.abs(grad).max()) == 0


def test_the_terms_of_the_loss_against_their_formulas():
    """Two scenes of three cameras and four frames, element by element in float64."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=(2, 3, 4, *shape))
    out = types.SimpleNamespace(
        logits=draw(5), box_logits=draw(1, 5), event_logits=draw(), anomaly_logits=draw(),
        features=draw(6), next_features=draw(6),
    )  # fmt: skip
    batch = {
        "labels": (draw(1, 5) > 0.5).astype(np.float32), "box_valid": draw(1) > 0,
        "event": (draw() > 0).astype(np.float32), "anomaly": (draw() > 0).astype(np.float32),
        "known": draw() > 0,
    }  # fmt: skip
    chance = lambda z: 1 / (1 + np.exp(-z))
    entropy = lambda z, y: -(y * np.log(chance(z)) + (1 - y) * np.log(1 - chance(z)))
    seen, known = batch["labels"].max(-2), batch["known"]
    box = entropy(out.box_logits, batch["labels"]).mean(-1)[batch["box_valid"]].mean()
    after = out.features[:, :, 1:]
    miss = ((out.next_features[:, :, :-1] - after) ** 2).mean()
    want = {
        "label": entropy(out.logits, seen).mean() + box,
        "event": entropy(out.event_logits, batch["event"]).mean(),
        "anomaly": entropy(out.anomaly_logits, batch["anomaly"])[known].mean(),
        "future": miss / ((out.features[:, :, :-1] - after) ** 2).mean(),
    }
    arrays = types.SimpleNamespace(**{k: jnp.asarray(v) for k, v in vars(out).items()})
    got = compare(arrays, {k: jnp.asarray(v) for k, v in batch.items()})
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["label", "event", "anomaly", "future", "match", "person"])
def test_the_loss_is_the_sum_of_its_weighed_terms(name, monkeypatch):
    terms = {"label": 2.0, "event": 3.0, "anomaly": 5.0, "future": 7.0}
    monkeypatch.setattr(live_task, "over_scenes", lambda *_, **__: types.SimpleNamespace(
        person={"objectness": jnp.zeros((1, 1, 1)), "edges": jnp.zeros((1, 1, 1))},
        taps={"token": jnp.zeros((1, 1, 1))},
    ))  # fmt: skip
    monkeypatch.setattr(live_task, "compare", lambda *_: dict(terms))
    monkeypatch.setattr(live_task, "prepared", lambda frames, _: frames)
    monkeypatch.setattr(live_task.losses, "person_loss", lambda *_: (13.0, 17.0))
    task = Live.__new__(Live)
    task.model = task.card = None
    task._match = lambda *_: 11.0
    weights = dict.fromkeys(("label", "event", "anomaly", "future", "match", "person"), 0.0)
    task.config = LiveLoss(**weights | {name: 0.5})
    blank = jnp.zeros((1, 1, 1, 1, 1))
    batch = dict.fromkeys(("frames", "boxes", "box_valid", "labels"), blank)
    total, (_, told) = task.loss({}, {"stem": {}, "cross": True}, (), jax.random.key(0), batch)
    assert total == 0.5 * (terms | {"match": 11.0, "person": 30.0})[name]
    assert told == terms | {"match": 11.0, "objectness": 13.0, "edges": 17.0}


def test_likeness_is_learned_by_counting_every_pair():
    rng = np.random.default_rng(0)
    scores, looks = rng.normal(size=(2, 3, 5, 5)), np.asarray([0, 1, 0, 1, 2])
    known = np.asarray([[True] * 5, [True, False, True, True, True]])
    same, other = [], []
    for t, h, i, j in itertools.product(range(2), range(3), range(5), range(5)):
        if i != j and known[t, i] and known[t, j]:
            odds = np.log1p(np.exp(-scores[t, h, i, j] if looks[i] == looks[j] else 0))
            if looks[i] == looks[j]:
                same.append(odds)
            else:
                other.append(np.log1p(np.exp(scores[t, h, i, j])))
    got = match_loss(jnp.asarray(scores), jnp.asarray(looks), jnp.asarray(known)[:, None])
    np.testing.assert_allclose(got, np.mean(same) + np.mean(other), rtol=1e-5)


# --- the task ---------------------------------------------------------------------------------

LEARNING, STEPS = 80, 10  # steps of the training, frames of a scene
IN_VIEW = slice(0, 3), slice(3, STEPS), slice(0, STEPS)  # of the cameras: leaves, enters, stays
CODES = np.random.default_rng(1).normal(size=(handover.LOOKS, stem_width("conv16")))


def short_scenes(seed, count):
    """Scenes [S, 3 cameras, 10 frames] whose features say who is in view: one leaves, one enters,
    one stays. Looks are dealt as in the data set."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        wrong = bool(rng.random() < 0.5)
        looks = deal(rng.permutation(handover.LOOKS).tolist(), [wrong], 1)
        labels = np.zeros((3, STEPS, 1, handover.LOOKS), np.float32)
        for camera, (look, when) in enumerate(zip(looks, IN_VIEW, strict=True)):
            labels[camera, when, 0, look] = 1
        late = (np.arange(STEPS) >= 8) & (np.arange(3) < 2)[:, None]
        frames = labels[:, :, 0] @ CODES + 0.3 * rng.normal(size=(3, STEPS, CODES.shape[1]))
        rows.append(dict(
            frames=frames[:, :, None, None].astype(np.float32), labels=labels,
            boxes=np.tile(np.float32([0.2, 0.2, 0.8, 0.8]), (3, STEPS, 1, 1)),
            box_valid=labels.max(-1) > 0, event=np.zeros((3, STEPS), np.float32),
            anomaly=np.float32(late & wrong), known=late | (np.arange(STEPS) < 4),
        ))  # fmt: skip
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def toy(loss, **sizes):
    """(model, task) for frames that are features already, one cell each."""
    config = LiveConfig(
        image_size=(16, 16), encoder="conv16", period=4, cross_heads=2, dim=32, depth=1,
        classes=handover.LOOKS, max_boxes=1, person_cells=1, roi_size=1, **sizes,
    )  # fmt: skip
    model: LiveModel = LiveModel(config)
    maps = jnp.zeros((1, 1, 1, 1, CODES.shape[1]))
    variables = jax.jit(lambda k: model.init(k, model.init_carry(1), maps))(jax.random.key(0))
    return model, Live(model, Card("toy-live"), variables, loss)


@pytest.mark.slow
def test_with_hrm_it_learns_what_no_camera_knows_and_without_it_does_not():
    """Held-out scenes: near certain with HRM, a coin's toss without it, in one program."""
    model, task = toy(LiveLoss(person=0.0), embed=32, key_dim=16, hidden=32)
    rate = optax.warmup_cosine_decay_schedule(0.0, 5e-3, 10, LEARNING)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def step(params, state, cross, batch):
        constants = {**task.constants, "cross": cross}
        grad, terms = jax.grad(task.loss, has_aux=True)(params, constants, (), None, batch)
        change, state = adam.update(grad, state)
        return optax.apply_updates(params, change), state, terms[1]

    @jax.jit
    def asked(params, cross, batch):
        out = over_scenes(model, {"params": params}, batch["frames"], cross)
        return out.anomaly_logits[:, :2, -1]

    test = short_scenes(10**6, 128)
    truth, score = test["anomaly"][:, :2, -1] > 0, {}
    for cross in (True, False):
        params = task.first
        state = adam.init(params)
        for index in range(LEARNING):
            params, state, _ = step(params, state, jnp.asarray(cross), short_scenes(index, 16))
        score[cross] = auc(np.asarray(asked(params, jnp.asarray(cross), test)), truth)
    assert score[True] > 0.9 and 0.35 < score[False] < 0.65, score


def moving_shapes(seed, scenes=16):
    """As :func:`short_scenes`, but every camera sees something go round at a speed of its own: its
    place is in the features as smooth waves, and there is nothing else to learn."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(0, 2 * np.pi, (scenes, 3, 1)), rng.uniform(-0.9, 0.9, (scenes, 3, 1))
    place = start + speed * np.arange(STEPS)
    width = CODES.shape[1]
    waves = np.cos(place[..., None] * (1 + np.arange(width) % 2) + np.arange(width) * 0.7)
    batch = short_scenes(0, 1)
    batch = {k: np.repeat(v, scenes, axis=0) for k, v in batch.items()}
    return batch | {"frames": waves[..., None, None, :].astype(np.float32)}


@pytest.mark.slow
def test_the_next_feature_of_moving_shapes_is_nearer_than_the_last_one():
    """Row 23, on shapes that it has not seen: a head without a memory could not tell the speed."""
    alone = dict.fromkeys(("label", "event", "anomaly", "match", "person"), 0.0)
    model, task = toy(LiveLoss(future=1.0, **alone), embed=16, key_dim=8, hidden=64)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))
    constants = {**task.constants, "cross": jnp.asarray(False)}

    @jax.jit
    def step(params, state, batch):
        grad, _ = jax.grad(task.loss, has_aux=True)(params, constants, (), None, batch)
        change, state = adam.update(grad, state)
        return optax.apply_updates(params, change), state

    @jax.jit
    def miss(params, batch):
        out = over_scenes(model, {"params": params}, batch["frames"], jnp.asarray(False))
        late = slice(4, None)  # the speed is seen by then
        return future_loss(out.next_features[:, :, late], out.features[:, :, late])

    params, state = task.first, adam.init(task.first)
    test = moving_shapes(10**6, 64)
    first, repeat = miss(params, test)
    assert float(first) == pytest.approx(float(repeat))  # it begins as the last feature again
    for index in range(150):
        params, state = step(params, state, moving_shapes(index))
    found, repeat = miss(params, test)
    print(f"next feature: {float(found / repeat):.3f} of the error of the last one again")
    assert float(found) < 0.5 * float(repeat)


# --- the recipe -------------------------------------------------------------------------------


def test_wrong_settings_are_named():
    recipe = LiveRecipe()
    with pytest.raises(DataError, match="set loop.frames"):
        dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, frames=16)).build()
    with pytest.raises(DataError, match="variants is 0"):
        CameraClips(0)


def test_what_a_live_model_recognises():
    """One scene, one camera, two frames with the one actor; the second is empty."""
    labels = np.zeros((1, 1, 2, 1, 3))
    labels[0, 0, 0, 0, 1] = 1
    boxes = np.tile([0.1, 0.1, 0.6, 0.7], (1, 1, 2, 1, 1))
    right = {
        "labels": labels, "boxes": boxes, "box": boxes, "found": labels.any(-1),
        "class_score": labels.max(-2) + 0.1, "box_score": labels.max(-1), "box_class_score": labels,
    }  # fmt: skip
    assert recognised([right]) == {"top1": 1.0, "mAP": 1.0}
    other = dict(right, class_score=1 - labels.max(-2), box_class_score=1 - labels)
    assert recognised([other])["top1"] == 0.0
    assert recognised([right, other])["top1"] == 0.5
    away = dict(right, box=boxes + np.float64([0.35, 0, 0.35, 0]))
    assert recognised([away]) == {"top1": 1.0, "mAP": 0.0}
    # a box in the empty frame too: what ranks the two is certainty times class
    ghost = dict(right, found=np.ones_like(right["found"]))
    level = (0.5, 0.5)  # (right box, wrong one)
    for box, kind, area in (
        ((0.9, 0.8), level, 1.0), ((0.8, 0.9), level, 0.5), (level, (0.9, 0.8), 1.0),
        (level, (0.8, 0.9), 0.5), ((0.9, 0.5), (0.5, 0.8), 1.0), ((0.8, 0.5), (0.5, 0.9), 0.5),
    ):  # fmt: skip
        ghost["box_score"] = np.reshape(box, (1, 1, 2, 1))
        ghost["box_class_score"] = np.tile(np.reshape(kind, (1, 1, 2, 1, 1)), 3)
        assert recognised([ghost])["mAP"] == area

"""Learning what tracked persons do: what tracks tell, what a batch is of, and the command."""

import csv
import json
from typing import Any

import numpy as np
import pytest

from streamzoo.train.person_actions.__main__ import main
from streamzoo.train.person_actions.clips import (
    FALLING,
    FIGHTING,
    NOTHING,
    STANDING,
    WALKING,
    Labelled,
    gait,
    labelled,
)
from streamzoo.train.person_actions.learn import LearnConfig, batch, seen
from streamzoo.train.person_actions.measure import Said, falls
from streamzoo.train.person_actions.tracks import Followed, Track
from streamzoo.zoo.action.person import Crops


def track(boxes, number=1, score=0.9, first=0):
    count, rng = len(boxes), np.random.default_rng(number)
    tight, wide = (rng.normal(size=(count, *tail)) for tail in ((18, 64), (16, 128)))
    half = np.float16
    crops: Any = Crops(tight.astype(half), wide.astype(half), np.asarray(boxes, np.float32))
    return Track(number, np.arange(first, first + count), crops, np.full(count, score))


def upright(x, width=0.1, height=0.3, low=0.8):
    x = np.asarray(x, float)
    full = np.full_like(x, low)
    return np.stack([x - width / 2, full - height, x + width / 2, full], axis=1)


@pytest.mark.parametrize(
    "boxes, want",
    [
        (upright(0.2 + 0.02 * np.arange(20)), {WALKING}),  # 0.67 heights a second
        (upright(np.full(20, 0.4)), {STANDING}),
        (upright(0.2 + 0.05 * np.arange(20)), {-1}),  # runs, or rides
        (upright(0.2 + 0.004 * np.arange(20)), {-1}),  # neither
        (upright(0.4 + 0.02 * (np.arange(20) % 4)), {-1}),  # to and fro
        (upright(np.full(20, 0.4), width=0.25), {-1}),  # sits, or lies
        (upright(0.2 + 0.02 * np.arange(20), low=0.99), {-1}),  # feet out of the picture
        (upright(np.full(5, 0.4)), {-1}),  # too short to tell
    ],
)
def test_a_track_tells_who_walks_and_who_stands(boxes, want):
    found = gait(track(boxes), 10.0)
    assert set(found[5:-5].tolist() or found.tolist()) == want
    assert set(gait(track(boxes, score=0.3), 10.0)) == {-1}


def clip(tracks, truth=-1, set="ut", labels=None, rate=10.0, segments=()):
    labels = [np.full(len(t.time), -1) for t in tracks] if labels is None else labels
    frames = 1 + max(int(t.time[-1]) for t in tracks)
    return Labelled(Followed("x", frames, rate, tracks), set, "g", "train", truth, labels, segments)


def test_a_batch_has_the_longest_tracks_of_each_clip_and_their_labels():
    short, long = track(upright(np.full(3, 0.4)), 1), track(upright(np.full(9, 0.4)), 2)
    labels = [np.full(3, NOTHING), np.arange(9) % 3]
    cfg = LearnConfig(frames=6, tracks=1)
    got = batch([clip([short, long], 5, labels=labels)], cfg)
    assert got.valid.shape == (1, 6) and got.valid.all() and got.truth.tolist() == [5]
    assert got.labels.tolist() == [[0, 1, 2, 0, 1, 2]]
    np.testing.assert_array_equal(got.crops.tight[0, :, 0], long.crops.tight[:6])
    both = batch([clip([short, long], 5, labels=labels)], LearnConfig(frames=12, tracks=2))
    assert both.valid.sum(1).tolist() == [9, 3] and (both.labels[~both.valid] == -1).all()
    drawn = batch([clip([short, long], 5, labels=labels)], cfg, np.random.default_rng(3))
    assert drawn.valid.sum() <= 6


def test_mirrored_crops_are_those_of_the_mirrored_picture():
    one = track(upright(0.2 + 0.02 * np.arange(4)))
    flipped = seen(one, mirrored=True)
    grid = lambda a, cols: np.asarray(a).reshape(4, -1, cols, a.shape[-1])
    np.testing.assert_array_equal(
        grid(flipped.tight, 3)[:, :, 0], grid(one.crops.tight, 3)[:, :, 2]
    )
    np.testing.assert_array_equal(grid(flipped.wide, 4)[:, :, 1], grid(one.crops.wide, 4)[:, :, 2])
    middle = (flipped.boxes[:, 0] + flipped.boxes[:, 2]) / 2
    assert (np.diff(middle) < 0).all() and (flipped.boxes[:, 2] > flipped.boxes[:, 0]).all()
    np.testing.assert_array_equal(seen(one).tight, one.crops.tight)


def test_falls_are_events_with_a_delay():
    def said(starts, count=60):
        logits = np.zeros((count, 9))
        logits[:, WALKING] = 1
        for start in starts:
            logits[start : start + 5, FALLING] = 2
        return [Said(track(upright(np.full(count, 0.4))), logits, np.zeros((count, 4)))]

    fall = clip([track(upright(np.full(60, 0.4)))], set="fall", segments=((FALLING, 2.0, 4.0),))
    found = falls([fall], lambda _: said([24]))
    assert (found["falls"], found["found"], found["false"], found["event_f1"]) == (1, 1, 0, 1.0)
    assert found["median_delay_s"] == pytest.approx(0.6)
    wrong = falls([fall], lambda _: said([2, 50]))
    assert (wrong["found"], wrong["false"], wrong["event_f1"]) == (0, 2, 0.0)
    assert wrong["median_delay_s"] is None


@pytest.fixture
def shelf(tmp_path):
    """The three sets in their layout, and what is kept of their tracks."""
    data, kept = tmp_path / "data", tmp_path / "runs" / "tracks"
    kept.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def keep(name, act):
        boxes = upright(0.2 + (0.02 if act == WALKING else 0.0) * np.arange(20))
        cells = rng.normal(0, 0.3, (20, 18, 64)) + 2 * (np.arange(64) % 9 == act)
        np.savez(
            kept / f"{name}.npz", n=20, rate=10.0, id=np.ones(20, int), t=np.arange(20),
            score=np.full(20, 0.9), box=boxes.astype(np.float32), tight=cells.astype(np.float16),
            wide=np.zeros((20, 16, 128), np.float16),
        )  # fmt: skip

    for number, sequences in ((1, (1, 6, 7)), (2, (11, 16, 17))):
        (data / "ut_interaction" / f"set{number}").mkdir(parents=True)
        for sequence in sequences:
            for act, truth in ((0, 7), (1, 6), (3, 8), (4, FIGHTING), (6, WALKING)):
                (data / "ut_interaction" / f"set{number}" / f"0_{sequence}_{act}.avi").touch()
                keep(f"ut{number}_0_{sequence}_{act}", truth)
    (data / "surv_fight").mkdir()
    rows = [(f"fi{k}", "fight", f"v{k}") for k in range(9)]
    rows += [(f"nofi{k}", "nofight", f"v{k}") for k in range(9)]
    table(data / "surv_fight" / "labels.csv", ("video", "class", "source"), rows)
    for name, kind, _ in rows:
        keep(f"sf_{name}", FIGHTING if kind == "fight" else NOTHING)
    (data / "gmdcsa24").mkdir()
    falls = [("s1_a", "fall", "s1"), ("s2_a", "fall", "s2"), ("s3_a", "fall", "s3")]
    table(data / "gmdcsa24" / "labels.csv", ("video", "class", "subject"), falls)
    acts = [(name, "fall", 0.0, 2.0) for name, *_ in falls]
    table(data / "gmdcsa24" / "segments.csv", ("video", "class", "start_s", "end_s"), acts)
    for name, *_ in falls:
        keep(f"gm_{name}", FALLING)
    (data / "clips" / "asl_gestures").mkdir(parents=True)
    for k in range(8):
        (data / "clips" / "asl_gestures" / f"w{k}.mkv").touch()
        keep(f"ood_asl_w{k}", NOTHING)
    return data, kept.parent


def table(path, head, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def test_what_belongs_together_is_on_one_side(shelf):
    data, out = shelf
    found = labelled(data, out / "tracks", "s2", kept=True)
    sides = {}
    for one in found:
        sides.setdefault((one.set, one.group), set()).add(one.part)
    assert all(len(parts) == 1 for parts in sides.values())
    assert sides["fall", "s2"] == {"test"} and sides["fall", "s1"] == {"train"}
    assert sides["ut", "7"] == {"test"} and sides["ut", "16"] == {"held"}
    fights = {part for (kind, _), parts in sides.items() if kind == "fight" for part in parts}
    assert {"train", "test"} <= fights
    walks = [one for one in found if one.set == "ut" and one.truth == NOTHING]
    assert (walks[0].labels[0][4:-4] == WALKING).all()


@pytest.mark.slow
def test_the_command(shelf, capsys):
    data, out = shelf
    words = ["--data", str(data), "--out", str(out), "--kept", "--steps", "60", "--decide"]
    assert main(words) == 0
    report = json.loads((out / "lstm-seed0-s1.json").read_text())
    assert report["ut_top1"] > 0.8 and report["fight_auc"] > 0.8 and report["event_f1"] == 1.0
    assert 0.05 < report["decision"]["temperature"] < 20
    assert (out / "lstm-seed0-s1.png").stat().st_size > 5000
    capsys.readouterr()
    assert main(["--out", str(out), "--table"]) == 0
    assert "| lstm | 1 |" in capsys.readouterr().out

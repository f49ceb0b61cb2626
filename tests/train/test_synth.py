"""The synthetic persons: the same however they are read, boxes that fit, labels that need time."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from streamzoo.train.data import behaviour, figures
from streamzoo.train.data.base import DataError
from streamzoo.train.data.synth import CLASSES, UNLIMITED, Synth

INDEX = {name: i for i, name in enumerate(CLASSES)}
LANE, SIZES, GAP, STEP = (0.2, 0.8), (0.36, 0.74), (1.0, 4.0), 0.2
PAIRS = {"walk_left": "walk_right", "approach": "retreat", "rise": "crouch"}


@pytest.fixture(scope="module")
def plans():
    source = Synth(videos=120)
    return [source.plan(i) for i in range(120)]


def lives(count=40, seconds=12.0):
    """(life, the same backwards, times) of persons whose labels start on no frame."""
    rng = np.random.default_rng(7)
    t = np.arange(round(seconds / STEP)) * STEP + behaviour.LEAD
    total = t[-1] + behaviour.LEAD
    for _ in range(count):
        life = behaviour.live(rng, total, LANE, SIZES, GAP)
        yield life, behaviour.backwards(life, total), t


def test_the_same_clip_whatever_was_read_before():
    first, second = Synth(videos=4), pickle.loads(pickle.dumps(Synth(videos=4)))
    whole = first.read(2, 0, 20)
    second.read(3, 30, 5)
    parts = [second.read(2, start, 5) for start in (15, 0, 10, 5)]
    parts = [parts[i] for i in (1, 3, 2, 0)]
    for name, value in whole._asdict().items():
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_array_equal(value, joined, err_msg=name)


def test_the_same_clip_in_another_process():
    code = (
        "import zlib; from streamzoo.train.data.synth import Synth;"
        "c = Synth(seed=3, split='val').read(5, 7, 2); print(zlib.crc32(c.frames.tobytes()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = Synth(seed=3, split="val").read(5, 7, 2).frames
    assert int(out.stdout) == zlib.crc32(here.tobytes())


def test_a_clip_never_changes():
    """Figures in the tables are of these pictures: another drawing is another data set."""
    clip = Synth(seed=3, split="val").read(5, 7, 2)
    sums = [zlib.crc32(a.tobytes()) for a in (clip.frames, clip.labels.astype(np.uint8))]
    sums.append(zlib.crc32(np.round(clip.boxes, 3).astype("<f4").tobytes()))
    assert sums == [2289643838, 3572825745, 2653503997]


def test_what_is_read_can_be_written_to():
    source = Synth(videos=1)
    before = source.read(0, 0, 3)
    for value in source.read(0, 0, 3):
        value[:] = 0
    after = source.read(0, 0, 3)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shapes_and_slots():
    source = Synth(videos=6, max_boxes=4)
    for video in range(6):
        clip = source.read(video, 3, 7)
        assert clip.frames.shape == (7, 96, 96, 3) and clip.frames.dtype == np.uint8
        assert clip.boxes.shape == (7, 4, 4) and clip.labels.shape == (7, 4, len(CLASSES))
        persons = clip.box_valid[0].sum()
        assert 1 <= persons <= 3
        assert (clip.box_valid == (np.arange(4) < persons)).all()
        assert not clip.boxes[~clip.box_valid].any() and not clip.labels[~clip.box_valid].any()
        assert (clip.persons == clip.box_valid).all() and (clip.labelled == clip.box_valid).all()


def test_fewer_boxes_than_persons_draw_fewer_persons():
    assert {Synth(max_boxes=1).plan(i).persons for i in range(12)} == {1}
    assert {Synth(max_boxes=3).plan(i).persons for i in range(30)} == {1, 2, 3}


def test_splits_and_seeds_are_other_videos():
    first = [Synth(split=s, seed=n).read(0, 0, 1).frames for s in ("train", "test") for n in (0, 1)]
    assert len({f.tobytes() for f in first}) == 4


def test_frame_rate_samples_the_same_motion():
    """Every fifth frame at 25 frames/s is a frame at 5; lives of one length are compared."""
    slow, fast = Synth(frame_rate=5.0, seconds=12.2), Synth(frame_rate=25.0, seconds=12.04)
    assert slow.length(0) == 61 and fast.length(0) == 301
    for video in range(3):
        a, b = slow.plan(video), fast.plan(video)
        np.testing.assert_allclose(a.boxes, b.boxes[::5], atol=1e-5)
        for one, other in zip(a.drawings, b.drawings, strict=True):
            np.testing.assert_allclose(one.joints, other.joints[::5], atol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (160, 90)])
def test_size_is_honoured(size):
    source = Synth(videos=2, size=size)
    assert source.size == size and source.read(0, 0, 2).frames.shape == (2, *size, 3)


@pytest.mark.parametrize("size", [(96, 96), (64, 112)])
def test_boxes_are_tight_about_what_is_drawn(size):
    source = Synth(videos=12, size=size)
    height, width = (s * figures.SUPERSAMPLING for s in size)
    for video in range(12):
        plan = source.plan(video)
        for slot, drawing in enumerate(plan.drawings):
            for frame in range(0, source.length(video), 9):
                # On a canvas with a margin all round: a box is the whole figure's, then clipped.
                canvas = Image.new("RGB", (width + 200, height + 200), (255, 0, 255))
                figures.draw(canvas, drawing._replace(joints=drawing.joints + 100), frame)
                ys, xs = np.nonzero((np.asarray(canvas) != (255, 0, 255)).any(axis=-1))
                drawn = np.asarray([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - 100
                drawn = np.clip(drawn, 0, [width, height, width, height])
                box = plan.boxes[frame, slot] * [width, height, width, height]
                # 2.5 canvas pixels are 1.25 of the frame's.
                np.testing.assert_allclose(box, drawn, atol=2.5)


def test_persons_stay_in_the_frame(plans):
    """Hips always; of the whole box, mostly: an arm may reach out at the frame's side."""
    inside = []
    for plan in plans:
        boxes = plan.boxes[:, : plan.persons]
        assert boxes.min() >= 0 and boxes.max() <= 1
        for drawing in plan.drawings:
            hip = drawing.joints[:, figures.HIP]
            assert hip.min() > 0 and hip.max() < 192
            radius = (figures.RADII * drawing.scale[:, None])[..., None]
            low = (drawing.joints - radius).min(axis=1)
            high = (drawing.joints + radius).max(axis=1)
            seen = np.clip(high, 0, 192) - np.clip(low, 0, 192)
            inside.append(seen.prod(axis=1) / (high - low).prod(axis=1))
    share = np.concatenate(inside)
    # 0.9 % of the person-frames of 600 videos are below 0.6, and the least is 0.38.
    assert (share < 0.6).mean() < 0.02 and share.min() > 0.33


def test_no_class_is_rare_and_several_hold_at_once(plans):
    labels = np.concatenate([p.labels[:, : p.persons].reshape(-1, len(CLASSES)) for p in plans])
    frequency = dict(zip(CLASSES, labels.mean(axis=0), strict=True))
    assert min(frequency.values()) >= 0.04, frequency
    assert max(frequency.values()) <= 0.60, frequency
    assert (labels.sum(axis=1) >= 2).mean() > 0.5
    motion = [*PAIRS, *PAIRS.values(), "stand", "lying"]
    assert labels[:, [INDEX[n] for n in motion[:-1]]].sum(axis=1).max() == 1


def test_backwards_shows_the_same_frames_with_the_other_labels():
    """What makes direction undecidable from a frame: the reversed life is as likely, and draws
    the same figures (and the same boxes) under the opposite label."""
    seen = dict.fromkeys(PAIRS, 0)
    for life, turned, t in lives():
        (pose, curves), (again, mirrored) = (behaviour.act(x, t, 1.0, -1.0) for x in (life, turned))
        np.testing.assert_allclose(figures.joints(pose), figures.joints(again)[::-1], atol=1e-6)
        for name in ("x", "size"):
            np.testing.assert_allclose(curves[name], mirrored[name][::-1], atol=1e-9)
        labels = behaviour.labels(life, t, STEP, pose, GAP)
        other = behaviour.labels(turned, t, STEP, again, GAP)[::-1]
        for one, opposite in PAIRS.items():
            for a, b in ((one, opposite), (opposite, one)):
                # Labels start one frame late, on either side: the segment's ends differ.
                differ = labels[:, INDEX[a]] != other[:, INDEX[b]]
                assert differ.sum() <= 2 * len(life.motion)
                both = (labels[:, INDEX[a]] > 0) & (other[:, INDEX[b]] > 0)
                assert not (labels[both, INDEX[b]].any() or other[both, INDEX[a]].any())
                seen[one] += int(both.sum())
    assert min(seen.values()) > 100


def test_each_direction_is_as_likely(plans):
    """Whole videos: lives are turned at a coin's toss, so a frame is as often of either label."""
    counts = dict.fromkeys((*PAIRS, *PAIRS.values()), 0.0)
    for plan in plans:
        for name in counts:
            counts[name] += float(plan.labels[..., INDEX[name]].sum())
    for a, b in PAIRS.items():
        assert 0.8 < counts[a] / counts[b] < 1.25, counts


def test_held_poses_are_those_of_the_motion():
    """The arm that holds and the legs that stand have the phases of waving and walking."""
    phases = {"wave": [], "hold": [], "walk": [], "stand": []}
    for life, _, t in lives(300):
        pose, _ = behaviour.act(life, t, 1.0, 1.0)
        for name in ("wave", "hold"):
            phases[name].append(pose.swing[behaviour.inside(life.gesture, name, t)])
        for kind, name in (("walk_left", "walk"), ("walk_right", "walk"), ("stand", "stand")):
            phases[name].append(pose.gait[behaviour.inside(life.motion, kind, t)])
    for moving, still in (("wave", "hold"), ("walk", "stand")):
        shares = []
        for name in (moving, still):
            turn = np.concatenate(phases[name]) % (2 * np.pi)
            shares.append(np.histogram(turn, 6, (0, 2 * np.pi))[0] / turn.size)
        # A held phase is one draw per segment (some hundreds), hence the width.
        assert np.abs(shares[0] - shares[1]).max() < 0.06, shares
        assert min(map(np.min, shares)) > 0.08, shares


def test_held_poses_do_not_move_and_motion_does():
    for life, _, t in lives(20):
        pose, curves = behaviour.act(life, t, 1.0, 1.0)
        labels = behaviour.labels(life, t, STEP, pose, GAP)[1:] > 0
        for name, curve, sign in (
            ("hold", pose.swing, 0),
            ("stand", curves["x"], 0),
            ("stand", pose.gait, 0),
            ("wave", pose.swing, 1),
            ("walk_left", curves["x"], -1),
            ("walk_right", curves["x"], 1),
            ("approach", curves["size"], 1),
            ("retreat", curves["size"], -1),
            ("rise", pose.height, 1),
            ("crouch", pose.height, -1),
        ):
            # From its second frame on: the step that leads to a labelled frame shows the motion.
            steps = np.diff(curve)[labels[:, INDEX[name]]]
            assert (np.sign(np.round(steps, 9)) == sign).all(), name


def test_the_second_event_alone_does_not_tell_the_order():
    """Of the frames with arms fully up (or a full bow), neither few nor most have the label."""
    on = {"up": [], "bow": []}
    for life, _, t in lives(200):
        pose, _ = behaviour.act(life, t, 1.0, 1.0)
        labels = behaviour.labels(life, t, STEP, pose, GAP)
        on["up"].append(labels[pose.up == 1, INDEX["bow_then_up"]])
        on["bow"].append(labels[pose.bow == 1, INDEX["up_then_bow"]])
    for name, values in on.items():
        assert 0.2 < np.concatenate(values).mean() < 0.6, name


def test_order_labels_want_two_kinds_of_event_within_the_gap():
    def label(*events: tuple[str, float]) -> dict[str, np.ndarray]:
        segments = [behaviour.Segment(k, s, s + behaviour.EVENT_SECONDS) for k, s in events]
        flat = {n: [(-5.0, 0.0)] for n in ("x", "size", "gait", "lie", "raised", "swing")}
        life = behaviour.Life(flat | {"height": [(-5.0, 1.0)]}, [], [], [], segments)
        t = np.arange(120) * 0.1
        pose, _ = behaviour.act(life, t, 1.0, 1.0)
        out = behaviour.labels(life, t, 0.1, pose, GAP)
        return {n: t[out[:, INDEX[n]] > 0] for n in ("up_then_bow", "bow_then_up")}

    both = label(("up", 2.0), ("bow", 4.95))
    assert both["bow_then_up"].size == 0
    np.testing.assert_allclose(both["up_then_bow"], np.arange(51, 61) * 0.1)
    assert label(("bow", 2.0), ("up", 4.95))["bow_then_up"].size == 10
    for events in ([("up", 2.0)], [("up", 2.0), ("up", 4.0)], [("up", 2.0), ("bow", 6.5)]):
        assert all(v.size == 0 for v in label(*events).values())


def test_the_gap_is_honoured():
    rng = np.random.default_rng(1)
    for gap in ((1.0, 1.0), (2.0, 3.0)):
        for _ in range(10):
            life = behaviour.live(rng, 60.0, LANE, SIZES, gap)
            apart = np.diff([s.start for s in life.events])
            near = apart[apart <= gap[1] + 1e-6]
            assert near.size > 3 and near.min() >= gap[0] - 1e-6
            assert (apart[apart > gap[1] + 1e-6] > gap[1] + 0.9).all()


def test_events_are_the_runs_of_the_labels():
    source = Synth(videos=5)
    for video in range(5):
        labels = source.plan(video).labels
        again = np.zeros_like(labels)
        for slot, label, start, end in source.events(video):
            assert 0 <= start < end <= source.length(video)
            assert not again[start:end, slot, label].any()
            assert start == 0 or labels[start - 1, slot, label] == 0
            again[start:end, slot, label] = 1
        np.testing.assert_array_equal(labels, again)


def test_figures_stand_out_from_the_background():
    """Something visibly changes where a person is: the box differs from the texture alone."""
    source = Synth(videos=8)
    for video in range(8):
        plan = source.plan(video)
        with_persons = source.read(video, 0, 1).frames[0].astype(int)
        x, y = plan.offset[0].tolist()
        bare = plan.background.crop((x, y, x + 192, y + 192)).reduce(2)
        differs = np.abs(with_persons - np.asarray(bare) * plan.gain[0]).max(axis=-1) > 40
        for x1, y1, x2, y2 in plan.boxes[0, : plan.persons] * 96:
            inside = differs[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            assert inside.mean() > 0.1
        assert differs.mean() < 0.6


def test_unlimited():
    source = Synth(videos=0)
    assert len(source) == UNLIMITED
    assert source.read(UNLIMITED - 1, 0, 1).frames.any()
    np.testing.assert_array_equal(source.read(3, 0, 1).frames, Synth().read(3, 0, 1).frames)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"split": "tets"}, "did you mean 'test'"),
        ({"videos": -1}, "videos is -1"),
        ({"seed": -2}, "seed is -2"),
        ({"frame_rate": 0.0}, "no frame"),
        ({"seconds": 0.01}, "no frame"),
        ({"size": (8, 96)}, "size is"),
        ({"max_boxes": 0}, "max_boxes is 0"),
        ({"gap": (3.0, 1.0)}, "gap is"),
        ({"gap": (0.2, 1.0)}, "gap is"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(DataError, match=text):
        Synth(**arguments)


def test_frames_outside_a_video_are_refused():
    source = Synth(videos=2)
    for video, start, count in ((2, 0, 1), (-1, 0, 1), (0, 59, 2), (0, -1, 1)):
        with pytest.raises(IndexError):
            source.read(video, start, count)

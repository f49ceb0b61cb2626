"""The schedule's laws: every frame once an epoch, warm lanes, any restart, any number of hosts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from streamzoo.train.data.base import Clip, DataError, Source
from streamzoo.train.data.pipeline import Lanes, batches, mirror

LENGTHS = (5, 9, 17, 3, 40)


class Numbers(Source):
    """Frames that say which video (red) and frame (green) they are, and where they are (blue)."""

    classes = ("left", "right", "still")

    def __init__(self, lengths=LENGTHS):
        self.lengths = lengths
        self.videos = tuple(f"video {i}" for i in range(len(lengths)))
        self.skipped = {}

    def length(self, video):
        return self.lengths[video]

    def read(self, video, start, count):
        assert start >= 0 and count >= 1 and start + count <= self.lengths[video]
        frames = np.zeros((count, 4, 6, 3), np.uint8)
        frames[..., 0] = video
        frames[..., 1] = np.arange(start, start + count)[:, None, None]
        frames[..., 2] = np.arange(6)
        boxes = np.zeros((count, 2, 4), np.float32)
        boxes[:, 0] = 0.1, 0.2, 0.4, 0.9
        valid = np.tile([True, False], (count, 1))
        labels = np.zeros((count, 2, 3), np.float32)
        labels[:, 0, 0] = 1
        return Clip(frames, boxes, valid, valid.astype(np.float32), labels, valid)


def take(n, source=None, lanes=4, frames=4, seed=0, **options):
    iterator = batches(source or Numbers(), lanes, frames, seed, **options)
    return [next(iterator) for _ in range(n)]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def plays(batch, lane):
    """(video, its frames) of one lane."""
    valid = batch["valid"][lane]
    shown = batch["frames"][lane, valid, 0, 0]
    return int(shown[0, 0]), [int(t) for t in shown[:, 1]]


def test_lanes_go_on_where_they_ended_and_are_fresh_exactly_where_videos_begin():
    for lane in range(4):
        before, visit, played = None, None, []
        for batch in take(60):
            video, shown = plays(batch, lane)
            assert shown == list(range(shown[0], shown[0] + len(shown)))
            ended = before is None or before[1][-1] == LENGTHS[before[0]] - 1
            assert batch["fresh"][lane] == ended
            assert (batch["visit"][lane] == visit) == (not ended)
            if not ended:
                assert (video, shown[0]) == (before[0], before[1][-1] + 1)
            # padding only behind the end, holding the last picture, without boxes or labels
            n = len(shown)
            assert batch["valid"][lane].tolist() == [True] * n + [False] * (4 - n)
            assert n == 4 or shown[-1] == LENGTHS[video] - 1
            pad = ~batch["valid"][lane]
            assert not batch["box_valid"][lane][pad].any()
            assert not batch["labelled"][lane][pad].any()
            assert (batch["frames"][lane][pad] == batch["frames"][lane][n - 1]).all()
            before, visit = (video, shown), batch["visit"][lane]
            played.append((video, shown[0]))
        assert len({video for video, _ in played}) > 2


def test_every_frame_is_played_once_per_epoch_up_to_the_random_offset():
    for jitter in (False, True):
        schedule = Lanes(LENGTHS, 3, 4, seed=1, jitter=jitter)
        visits: dict[int, list] = {}
        for lane in range(3):
            for step in range(400):
                chunk = schedule(step, lane)
                visits.setdefault(chunk.visit, []).append(chunk)
        epochs = 12  # all of their visits are over by then
        counted, offsets = Counter(), Counter()
        for visit in range(epochs * len(LENGTHS)):
            chunks = visits[visit]
            counted[chunks[0].video] += 1
            video, first = chunks[0].video, chunks[0].start
            got = [t for c in chunks for t in range(c.start, c.start + c.frames)]
            assert got == list(range(first, LENGTHS[video]))
            if visit >= 3:  # a lane's first video may begin anywhere
                assert first < 4 and LENGTHS[video] - first >= min(4, LENGTHS[video])
                offsets[first] += 1
        assert counted == dict.fromkeys(range(len(LENGTHS)), epochs)
        assert set(offsets) == ({0, 1, 2, 3} if jitter else {0})
        for epoch in range(epochs):
            row = range(epoch * len(LENGTHS), (epoch + 1) * len(LENGTHS))
            assert {visits[v][0].video for v in row} == set(range(len(LENGTHS)))


def test_lanes_of_equal_videos_do_not_change_all_at_once():
    fresh = np.stack([b["fresh"] for b in take(40, Numbers((32,) * 6), lanes=8)[1:]])
    assert fresh.any() and not fresh.all(axis=1).any()


def test_seeds_and_epochs_differ():
    a, again, b = take(8), take(8), take(8, seed=1)
    [same(x, y) for x, y in zip(a, again, strict=False)]
    assert any(not np.array_equal(x["frames"], y["frames"]) for x, y in zip(a, b, strict=False))
    schedule = Lanes((4,) * 12, 1, 4, seed=0)
    orders = [tuple(schedule(12 * e + i, 0).video for i in range(12)) for e in range(3)]
    assert len(set(orders)) == 3


def test_more_lanes_than_videos_still_all_play():
    for batch in take(20, Numbers((7, 5)), lanes=6):
        assert batch["valid"].any(axis=1).all()


@pytest.mark.parametrize("start", [1, 13, 37])
def test_a_restart_at_any_step_sees_what_it_would_have_seen(start):
    straight = take(45, flip=True)
    for a, b in zip(straight[start:], take(45 - start, flip=True, start=start), strict=False):
        same(a, b)


def test_the_state_goes_round():
    iterator = batches(Numbers(), 4, 4, 0)
    [next(iterator) for _ in range(11)]
    state = iterator.get_state()
    after = [next(iterator) for _ in range(5)]
    other = batches(Numbers(), 4, 4, 0)
    next(other)
    other.set_state(state)
    [same(a, b) for a, b in zip(after, [next(other) for _ in range(5)], strict=False)]
    iterator.set_state(state)
    same(next(iterator), after[0])
    # a run begun at a step is in the same count
    begun = batches(Numbers(), 4, 4, 0, start=11)
    assert begun.get_state() == state


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_together_play_the_batch_of_one(hosts):
    whole = take(25, flip=True)
    parts = [take(25, flip=True, host=h, hosts=hosts) for h in range(hosts)]
    for step, batch in enumerate(whole):
        joined = {k: np.concatenate([p[step][k] for p in parts]) for k in batch}
        same(batch, joined)


def test_threads_change_nothing():
    for a, b in zip(
        take(30, threads=1, prefetch=1), take(30, threads=6, prefetch=12), strict=False
    ):
        same(a, b)


def test_a_mirrored_showing_mirrors_pixels_boxes_and_classes_all_through():
    plain, flipped = take(60), take(60, flip=True, swap=((0, 1),))
    seen = set()
    by_visit: dict[int, bool] = {}
    for a, b in zip(plain, flipped, strict=False):
        np.testing.assert_array_equal(a["fresh"], b["fresh"])
        for lane in range(4):
            mirrored = bool(b["frames"][lane, 0, 0, 0, 2] == 5)
            assert by_visit.setdefault(int(b["visit"][lane]), mirrored) == mirrored
            seen.add(mirrored)
            pixels, valid = a["frames"][lane], a["valid"][lane]
            np.testing.assert_array_equal(
                b["frames"][lane], pixels[:, :, ::-1] if mirrored else pixels
            )
            box = [0.6, 0.2, 0.9, 0.9] if mirrored else [0.1, 0.2, 0.4, 0.9]
            np.testing.assert_allclose(b["boxes"][lane, valid, 0] - box, 0, atol=1e-6)
            assert not b["boxes"][lane, :, 1].any()  # an empty slot stays empty
            assert b["labels"][lane, valid, 0].argmax(-1).tolist() == [int(mirrored)] * valid.sum()
    assert seen == {True, False}


def test_a_mirror_twice_is_the_clip_itself():
    clip = Numbers().read(2, 3, 4)
    swap = np.asarray([1, 0, 2])
    for a, b in zip(clip, mirror(mirror(clip, swap), swap), strict=False):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"source": Numbers(())}, "no videos"),
        ({"lanes": 0}, "lanes=0"),
        ({"frames": 0}, "frames=0"),
        ({"lanes": 4, "hosts": 3}, "3 hosts evenly; 3 can"),
        ({"lanes": 2, "hosts": 4}, "lanes=2 cannot be shared by 4 hosts"),
        ({"host": 2, "hosts": 2}, "counted from 0"),
        ({"source": Numbers((4, 0))}, "video 1 of the source has no frames"),
        ({"swap": ((0, 3),)}, "class numbers below 3"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_one_line(options, text):
    options = {"source": Numbers(), "lanes": 4, "frames": 4, "seed": 0} | options
    with pytest.raises(DataError, match=text) as caught:
        batches(**options)
    assert "\n" not in str(caught.value)


def test_an_empty_source_says_what_was_skipped():
    source = Numbers(())
    source.skipped = {"a.mp4": "cut off"}
    with pytest.raises(DataError, match="a.mp4: cut off"):
        batches(source, 1, 1, 0)


def test_a_source_that_gives_too_little_is_named():
    source = Numbers((40,))
    source.read = lambda video, start, count: Numbers.read(source, video, start, 1)
    with pytest.raises(DataError, match="video 0 gave 1 of 4 frames"):
        next(batches(source, 1, 4, 0))

"""Sources derived from another one: mirrored, cut down, with kept features and answers."""

import dataclasses
import os
import resource
from typing import Any

import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train import stems
from streamzoo.train.data import box_cache, folder, kept, pipeline, synth, video
from streamzoo.train.data.base import DataError
from streamzoo.train.data.box_cache import Boxes
from streamzoo.train.data.in_memory import LabelledVideos
from streamzoo.train.data.pipeline import mirror
from streamzoo.train.data.stored import Featured, Mirrored, Subset, Taught


def source(videos=3, frames=5):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (frames + i, 4, 6, 3), np.uint8) for i in range(videos)]
    names = [f"v{i}" for i in range(videos)]
    return LabelledVideos(names, pictures, [0] * videos, ("a", "b"), 5.0)


def encode(frames):
    return frames[:, ::2, ::2].astype(np.float32).repeat(2, axis=-1) / 255


def test_mirrored_videos_follow_the_others():
    plain = source()
    both = Mirrored(plain, swap=((0, 1),))
    assert len(both) == 6 and both.length(4) == plain.length(1)
    clip, twin = plain.read(1, 2, 3), both.read(4, 2, 3)
    np.testing.assert_array_equal(twin.frames, clip.frames[:, :, ::-1])
    np.testing.assert_array_equal(twin.labels[..., 0], clip.labels[..., 1])
    np.testing.assert_array_equal(both.read(1, 2, 3).frames, clip.frames)
    want = mirror(clip, np.asarray([1, 0]))
    np.testing.assert_array_equal(twin.boxes, want.boxes)


def test_features_are_computed_once_and_read_from_any_frame(tmp_path):
    calls = []

    def counted(frames):
        calls.append(len(frames))
        return encode(frames)

    plain = source()
    first = Featured(plain, counted, tmp_path, "stem")
    assert calls == [5, 6, 7]
    again = Featured(plain, counted, tmp_path, "stem")
    assert calls == [5, 6, 7]  # kept
    for number in range(3):
        got = again.read(number, 1, 3).frames
        assert got.dtype == np.float16
        want = encode(plain.read(number, 1, 3).frames).astype(np.float16)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(first.read(number, 1, 3).frames, want)
        for name in ("boxes", "box_valid", "persons", "labels", "labelled"):
            kept, own = (getattr(s.read(number, 1, 3), name) for s in (again, plain))
            np.testing.assert_array_equal(kept, own)
    Featured(plain, counted, tmp_path, "another stem")
    Featured(Subset(plain, [0, 2]), counted, tmp_path, "stem")
    assert calls == [5, 6, 7, 5, 6, 7]  # other stems are kept apart; videos are kept one by one


def test_a_pass_that_dies_goes_on_where_it_was(tmp_path):
    calls, ill = [], [True]

    def sometimes(frames):
        calls.append(len(frames))
        if len(frames) == 6 and ill[0]:
            raise RuntimeError("out of memory")
        return encode(frames)

    plain = source()
    with pytest.raises(RuntimeError, match="out of memory"):
        Featured(plain, sometimes, tmp_path)
    ill[0] = False
    whole = Featured(plain, sometimes, tmp_path)
    assert calls == [5, 6, 6, 7] and not list(tmp_path.rglob("*.part"))
    # a file that is cut off, or of another kind, is made again
    file = whole.kept.path(2)
    for damage in (file.read_bytes()[:-1], b"", b"x" * file.stat().st_size):
        file.write_bytes(damage)
        again = Featured(plain, sometimes, tmp_path)
        np.testing.assert_array_equal(again.read(2, 1, 3).frames, whole.read(2, 1, 3).frames)
    assert calls == [5, 6, 6, 7, 7, 7, 7]


def test_features_are_of_these_very_pictures_whatever_their_names(tmp_path):
    """Same names, lengths and sizes, other content: nothing is shared."""
    one, two = source(), source()
    two._frames = [255 - f for f in two._frames]
    for plain in (one, two, Mirrored(two)):
        made = Featured(plain, encode, tmp_path, "stem")
        for number in range(len(plain)):
            want = encode(plain.read(number, 0, 5).frames).astype(np.float16)
            np.testing.assert_array_equal(made.read(number, 0, 5).frames, want)
    two._frames[1] = one._frames[1]  # and a video that comes back is known again
    calls = []
    Featured(two, lambda f: calls.append(1) or encode(f), tmp_path, "stem")
    assert not calls


def test_answers_depend_on_boxes_and_features_do_not(tmp_path):
    plain, other = source(), source()
    other._boxes = [
        Boxes(np.full((len(f), 1, 4), 0.25, np.float32), np.ones((len(f), 1), np.float32))
        for f in other._frames
    ]
    other.max_boxes = plain.max_boxes = 2
    calls = []

    def teach(video):
        calls.append(video)
        return {"logits": np.zeros((plain.length(video), 2))}

    for one in (plain, other, plain):
        Taught(one, teach, tmp_path, "teacher")
    assert calls == [0, 1, 2] * 2
    for key in ("teacher", "other weights", "teacher"):
        Taught(other, teach, tmp_path, key)
    assert calls == [0, 1, 2] * 3
    for one in (plain, other):
        Featured(one, lambda f: calls.append(9) or encode(f), tmp_path)
    assert calls[9:] == [9, 9, 9]


def test_a_full_disk_is_one_line_before_hours_of_work(tmp_path, monkeypatch):
    """Told after the first video, whose size tells all; and where a write fails all the same."""
    calls = []
    slow = lambda frames: calls.append(1) or encode(frames)
    usage = kept.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: usage._replace(free=300))
    need = (5 + 6 + 7) * 2 * 2 * 3 * 6
    with pytest.raises(
        DataError, match=r"need 0\.0 MiB and .* has 0\.0 MiB free: make room"
    ) as error:
        Featured(source(), slow, tmp_path)
    assert "\n" not in str(error.value) and len(calls) == 1 and need > 300
    monkeypatch.undo()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # what a disk says when it is full
    try:
        with pytest.raises(DataError, match="cannot keep the features in .*goes on") as error:
            Featured(source(), slow, tmp_path)
        with pytest.raises(DataError, match="cannot keep 0.0 MiB in") as second:
            video.stored(tmp_path, "persons", lambda: {"boxes": np.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) + str(second.value)
    assert not list(tmp_path.rglob("*.part"))
    Featured(source(), slow, tmp_path)
    assert len(calls) == 2 + 3


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot keep the features in .*file/features: Not a dir"):
        Featured(source(), encode, tmp_path / "file")


# --- what a video is known by -------------------------------------------------------------------


def write(path, value, frames=8):
    """A film of one grey value, of one length in bytes whatever the value, and of one time."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W32 H32 F8:1 Ip A1:1 C420jpeg\n")
        for _ in range(frames):
            file.write(b"FRAME\n" + bytes([value]) * (32 * 32 * 3 // 2))
    os.utime(path, (10**9, 10**9))
    return path


def test_a_file_is_known_by_its_content(tmp_path):
    one = write(tmp_path / "a" / "000.y4m", 40)
    two = write(tmp_path / "b" / "000.y4m", 200)
    same = write(tmp_path / "c" / "another name.y4m", 40)
    assert one.stat().st_size == two.stat().st_size
    assert video.content(one) == video.content(same) != video.content(two)
    os.utime(same, (10**9, 10**9 + 1))
    assert video.content(one) != video.content(same)  # touched since: looked at again
    assert video.decoded(one, (8, 8), 5.0) != video.decoded(one, (8, 8), 6.0)


class Finder:
    boxes = 1

    def __init__(self, name):
        self.identity = (name,)

    def __call__(self, frame):
        return np.full((1, 4), 0.5, np.float32), np.ones(1, np.float32)


def test_every_setting_of_a_source_is_in_what_its_videos_are_known_by(tmp_path, monkeypatch):
    """One change at a time: pictures and boxes of it have another identity, or neither does."""
    write(tmp_path / "a" / "000.mp4", 40)
    write(tmp_path / "b" / "000.mp4", 200)
    monkeypatch.setattr(box_cache, "Detector", Finder)
    base: dict[str, Any] = dict(path=tmp_path / "a", size=(16, 16), frame_rate=4.0, max_boxes=2)
    base |= dict(detector=Finder("one"), every=3)
    first = folder.Folder(**base)
    changes = {  # setting -> (value, other pictures, other boxes)
        "path": (tmp_path / "b", True, True), "size": ((8, 8), True, True),
        "frame_rate": (2.0, True, True), "max_boxes": (3, False, True),
        "detector": (Finder("two"), False, True), "every": (2, False, True),
    }  # fmt: skip
    assert set(changes) == set(base)
    for name, (value, pictures, boxes) in changes.items():
        other = folder.Folder(**{**base, name: value})
        assert (other.identity(0) != first.identity(0)) is pictures, name
        assert (other.identity(0, True) != first.identity(0, True)) is boxes, name
    assert folder.Folder(**base).identity(0, True) == first.identity(0, True)
    made = synth.Synth(4).identity(1)
    assert synth.Synth(8).identity(1) == made  # more of the same
    change: dict[str, Any]
    for change in (dict(max_boxes=2), dict(size=(64, 64)), dict(seed=1), dict(split="test")):
        assert synth.Synth(4, **change).identity(1) != made, change


def test_the_code_is_part_of_the_key(tmp_path, monkeypatch):
    """Features of before a change are not those of after it."""
    plain = synth.Synth(1, 0.4, size=(32, 32))
    card, stem = zoo.model_card("dsta-lite0"), "efficientnet-lite0"
    before = stems.computed_by(stem, card), plain.identity(0), video.decoded(tmp_path)
    assert before == (stems.computed_by(stem, card), plain.identity(0), video.decoded(tmp_path))
    other = dataclasses.replace(card, mean=(0.4, 0.5, 0.5))
    assert stems.computed_by(stem, other) != before[0]
    for module in (stems, synth, video):
        monkeypatch.setattr(module, "code", lambda *_: "changed")
    after = stems.computed_by(stem, card), plain.identity(0), video.decoded(tmp_path)
    assert not set(before) & set(after)
    assert kept.code("train/data/kept.py") != kept.code("train/data")


def test_kept_answers_travel_with_their_chunks(tmp_path):
    plain = source()

    def teach(video):
        return {"logits": np.arange(plain.length(video), dtype=np.float32)[:, None] + 100 * video}

    taught = Taught(plain, teach, tmp_path)
    batches = pipeline.batches(Subset(taught, [2, 0]), 2, 4, 0, jitter=False)
    seen = 0
    for _ in range(6):
        batch = next(batches)
        for lane in range(2):
            valid = batch["valid"][lane]
            answers = batch["target_logits"][lane, :, 0]
            assert (answers[~valid] == 0).all()
            number = np.unique(answers[valid] // 100)
            assert len(number) == 1 and number[0] in (0, 2)
            np.testing.assert_array_equal(np.diff(answers[valid]), 1)
            seen += valid.sum()
    assert seen
    flipped = pipeline.batches(taught, 2, 4, 0, flip=True)
    with pytest.raises(DataError, match="Mirrored"):
        for _ in range(20):
            next(flipped)

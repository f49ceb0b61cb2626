"""Sources derived from another one: mirrored, cut down, with kept features and answers."""

import numpy as np
import pytest

from streamzoo.train.data import pipeline
from streamzoo.train.data.base import DataError
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
    for video in range(3):
        got = again.read(video, 1, 3).frames
        assert got.dtype == np.float16
        want = encode(plain.read(video, 1, 3).frames).astype(np.float16)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(first.read(video, 1, 3).frames, want)
        for name in ("boxes", "box_valid", "persons", "labels", "labelled"):
            kept, own = (getattr(s.read(video, 1, 3), name) for s in (again, plain))
            np.testing.assert_array_equal(kept, own)
    Featured(plain, counted, tmp_path, "another stem")
    Featured(Subset(plain, [0, 2]), counted, tmp_path, "stem")
    assert calls == [5, 6, 7, 5, 6, 7, 5, 7]  # other stems and other videos are kept apart


def test_a_computation_that_dies_leaves_nothing_behind(tmp_path):
    def dies(frames):
        if len(frames) == 6:
            raise RuntimeError("out of memory")
        return encode(frames)

    with pytest.raises(RuntimeError, match="out of memory"):
        Featured(source(), dies, tmp_path)
    assert not list(tmp_path.iterdir())


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

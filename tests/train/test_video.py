"""Decoding: the right pictures at the right time, the streaming room's pixels, faults by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamzoo.streaming.sources import open_source
from streamzoo.train.data import video
from streamzoo.train.data.base import DataError

from ..streaming import odd_files
from .video_files import numbers, write

CLIPS = Path(__file__).resolve().parents[3] / "shared/data"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "clip.mp4")


def test_every_picture_or_those_nearest_in_time(clip):
    assert numbers(video.decode(clip)) == list(range(30))
    assert numbers(video.decode(clip, rate=10.0)) == list(range(30))
    assert numbers(video.decode(clip, rate=5.0)) == list(range(0, 30, 2))
    doubled = numbers(video.decode(clip, rate=20.0))
    assert doubled[:2] == [0, 0] or doubled[:2] == [0, 1]
    assert (np.diff(doubled) >= 0).all() and set(doubled) == set(range(30))
    for rate in (10.0, 5.0, 20.0, 3.3):
        assert len(video.decode(clip, rate=rate)) == video.count(video.probe(clip), rate)


def test_a_part_is_that_part_of_the_whole(clip):
    assert numbers(video.decode(clip, rate=10.0, start=1.2, seconds=0.8)) == list(range(12, 20))
    assert numbers(video.decode(clip, start=1.2, seconds=0.8)) == list(range(12, 20))
    assert numbers(video.decode(clip, rate=5.0, start=2.0, seconds=9.0)) == [20, 22, 24, 26, 28]
    with pytest.raises(DataError, match="clip.mp4: it ends before 9"):
        video.decode(clip, start=9.0, seconds=1.0)


def test_probing_counts_without_decoding(clip):
    info = video.probe(clip)
    assert (info.frames, info.rate, info.size) == (30, 10.0, (48, 64))
    assert info.seconds == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize("size", [None, (40, 24), (96, 128)])
def test_pixels_are_those_of_the_streaming_room(clip, size):
    with open_source(clip, size=size) as source:
        live = np.stack([frame.image for frame in source])
    np.testing.assert_array_equal(video.decode(clip, size), live)


WORDS = ("tracks", "cover", "pixels", "quarter", "half", "left", "down", "transverse", "transposed")
ODD = [name for name in odd_files.FILES if any(word in name for word in WORDS)]


@pytest.mark.parametrize("name", ODD)
def test_what_a_file_says_of_its_pictures_counts_here_too(name, tmp_path):
    """Mirrored and turned, other pixels, the best of several tracks: as in the streaming room."""
    path = odd_files.FILES[name](tmp_path / name)
    with open_source(path) as source:
        live = np.stack([frame.image for frame in source])
    np.testing.assert_array_equal(video.decode(path), live)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["clips/mmaction2_demo_arm_wrestling.mp4", "ut_interaction"])
def test_pixels_of_real_video_too(name):
    path = CLIPS / name
    path = sorted((path / "set1").glob("*.avi"))[0] if path.is_dir() else path
    with open_source(path, size=(56, 72)) as source:
        live = [frame.image for _, frame in zip(range(20), source, strict=False)]
    np.testing.assert_array_equal(video.decode(path, (56, 72))[: len(live)], np.stack(live))


def test_a_cut_file_gives_what_it_has(tmp_path):
    whole = write(tmp_path / "whole.mkv", frames=45)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    got = numbers(video.decode(cut))
    assert 5 < len(got) < 45 and got == list(range(len(got)))
    assert abs(video.probe(cut).frames - len(got)) <= 1


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no such file"), (b"", "cannot be read as video"), (b"words" * 99, "cannot be read")],
)
def test_what_is_not_video_is_named(tmp_path, content, text):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    for act in (video.decode, video.probe):
        with pytest.raises(DataError, match=f"bad.mp4: {text}") as caught:
            act(path)
        assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(bytes(1600))
    with pytest.raises(DataError, match="no video track"):
        video.probe(tmp_path / "a.wav")


def test_loading_skips_and_tells_the_bad_ones(tmp_path, clip):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"words")
    paths = {"good": clip, "bad": bad, "gone": tmp_path / "gone.mp4"}
    frames, skipped = video.load(paths, (24, 32), 5.0)
    assert list(frames) == ["good"] and frames["good"].shape == (15, 24, 32, 3)
    assert set(skipped) == {"bad", "gone"} and "no such file" in skipped["gone"]
    with pytest.raises(DataError, match="none of 1 videos.*bad.mp4"):
        video.load({"bad": bad}, (24, 32), 5.0)
    with pytest.raises(DataError, match="above limit"):
        video.load({"good": clip}, (24, 32), 5.0, limit=1e-6)


def test_the_cache_is_used_and_follows_the_file(tmp_path, clip, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip.read_bytes())
    load = lambda **k: video.load({"a": path}, (24, 32), **k, cache=tmp_path / "c")[0]["a"]
    first = load(rate=5.0)
    calls = []
    decode = video.decode
    monkeypatch.setattr(video, "decode", lambda *a, **k: calls.append(a) or decode(*a, **k))
    np.testing.assert_array_equal(load(rate=5.0), first)
    assert not calls
    assert len(load(rate=10.0)) == 30 and len(calls) == 1  # another rate: another entry
    write(path, frames=12)
    assert len(load(rate=5.0)) == 6 and len(calls) == 2  # another file
    # a damaged entry is made anew, and no half-written file is left behind
    for entry in (tmp_path / "c").iterdir():
        assert entry.suffix == ".npz"
        entry.write_bytes(entry.read_bytes()[:50])
    assert len(load(rate=5.0)) == 6 and len(calls) == 3


def test_a_folder_is_searched_by_suffix(tmp_path):
    with pytest.raises(DataError, match="the folder of videos"):
        video.find(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no videos in it"):
        video.find(tmp_path)
    for name in ("b/c.MKV", "a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in video.find(tmp_path)] == ["a.mp4", "c.MKV"]

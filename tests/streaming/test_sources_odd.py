"""Odd files, against FFmpeg's own tools: times, number, size and orientation of their pictures."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from streamzoo.streaming.sources import SourceError, open_source

from . import odd_files

TABLE = json.loads(odd_files.TABLE.read_text())


@pytest.mark.parametrize("name", sorted(TABLE))
def test_as_ffmpegs_tools_say(tmp_path, name):
    path, said = odd_files.FILES[name](tmp_path / name), TABLE[name]
    with open_source(path) as source:
        frames = list(source)
        assert source.warning is None
    start = said["start"]
    if name.startswith("sound"):  # versions of FFmpeg differ in AAC's delay, which comes before 0
        with av.open(str(path)) as container:
            start = container.start_time / av.time_base
        assert abs(start - said["start"]) < 0.2
    assert len(frames) == len(said["times"])
    times = np.array([f.time for f in frames])
    want = np.array([np.nan if t is None else t - start for t in said["times"]])
    assert (np.diff(times) > 0).all()
    known = ~np.isnan(want)
    assert known.any()
    np.testing.assert_allclose(times[known], want[known], atol=2e-3)
    height, width = said["size"]
    aspect = Fraction(said["aspect"].replace(":", "/")) if said["aspect"] != "0:1" else Fraction(1)
    turned = "quarter" in name or "trans" in name
    if turned and aspect != 1:  # ffprobe speaks of the pixels as they are stored
        aspect = 1 / aspect
    shown = (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)
    assert frames[0].original_size == frames[0].image.shape[:2] == shown
    assert odd_files.bright(frames[0].image.mean(-1)) == said["bright"]


def test_every_odd_file_is_in_the_table():
    assert set(TABLE) == set(odd_files.FILES) and len(TABLE) >= 40
    for name, said in TABLE.items():
        assert len(said["times"]) > 0 and min(said["size"]) > 0, name


ASKED = ("b_frames.avi", "edit_list.mp4", "quarter.mp4", "two_tracks.mkv")


@pytest.mark.parametrize(
    "name", [n if n in ASKED else pytest.param(n, marks=pytest.mark.slow) for n in sorted(TABLE)]
)
def test_the_table_is_what_the_tools_say(tmp_path, name):
    if not (shutil.which("ffprobe") and shutil.which("ffmpeg")):
        pytest.skip("ffprobe and ffmpeg are not installed; the table has what they said")
    said = odd_files.asked(odd_files.FILES[name](tmp_path / name))
    assert json.loads(json.dumps(said)) == TABLE[name]


def test_a_sound_file_with_a_cover_has_no_video(tmp_path):
    song = odd_files.write(tmp_path / "song.mp4", size=None, sound=(0, 1), cover=(60, 60))
    with pytest.raises(SourceError, match="no video track, only a cover picture"):
        open_source(song)

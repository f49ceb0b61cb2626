"""Clips around events: what was before, the event, what came after; and no more."""

import av
import numpy as np
import pytest

from streamzoo.streaming.recording import EventRecorder

SIZE = (48, 64)
BEGIN = {"state": "start", "region": "door", "id": 1}
END = {"state": "end", "region": "door", "id": 1}
ONCE = {"state": "once", "region": "line", "id": 2}


def record(tmp_path, events, frames=100, fps=10.0, **options):
    """Plays frames whose brightness is twice their number; returns the numbers in each clip."""
    recorder = EventRecorder(tmp_path, "event", fps, **options)
    for t in range(frames):
        line = {"time": t / fps} | ({"events": events[t]} if t in events else {})
        recorder.write(line, np.full((*SIZE, 3), 2 * t, np.uint8))
    recorder.close()
    assert recorder.clips == sorted(tmp_path.glob("event-*.mp4"))
    return [numbers(path) for path in recorder.clips]


def numbers(path):
    with av.open(str(path)) as clip:
        means = [f.to_ndarray(format="rgb24").mean() for f in clip.decode(video=0)]
    return [round(mean / 2) for mean in means]


def close_to(got, first, last):
    assert len(got) == last - first + 1
    np.testing.assert_allclose(got, np.arange(first, last + 1), atol=2)


def test_a_crossing_is_in_the_middle_of_its_clip(tmp_path):
    (clip,) = record(tmp_path, {50: [ONCE]}, before=1.0, after=2.0)
    close_to(clip, 40, 70)


def test_a_visit_is_recorded_to_its_end_and_after(tmp_path):
    (clip,) = record(tmp_path, {30: [BEGIN], 60: [END]}, before=0.5, after=0.5)
    close_to(clip, 25, 65)


def test_events_that_overlap_are_one_clip_and_others_are_not(tmp_path):
    clips = record(tmp_path, {10: [ONCE], 18: [ONCE], 60: [ONCE]}, before=0.5, after=1.0)
    assert len(clips) == 2
    close_to(clips[0], 5, 28)
    close_to(clips[1], 55, 70)


def test_a_clip_is_never_longer_than_said_and_the_next_goes_on(tmp_path):
    clips = record(tmp_path, {10: [BEGIN]}, frames=60, before=0.5, after=0.5, longest=2.0)
    assert len(clips) == 3
    close_to(clips[0], 5, 30)
    close_to(clips[1], 31, 51)


def test_without_events_nothing_is_written_and_little_is_kept(tmp_path):
    recorder = EventRecorder(tmp_path, "event", 10.0, before=1.0)
    for t in range(300):
        recorder.write({"time": t / 10}, np.zeros((*SIZE, 3), np.uint8))
    assert len(recorder._waiting) == 11 and not list(tmp_path.iterdir())
    recorder.close()


def test_a_change_of_resolution_keeps_the_clip(tmp_path):
    recorder = EventRecorder(tmp_path, "event", 10.0, before=0.5, after=1.0)
    for t in range(20):
        size = SIZE if t < 8 else (96, 80)
        line = {"time": t / 10} | ({"events": [ONCE]} if t == 5 else {})
        recorder.write(line, np.full((*size, 3), 2 * t, np.uint8))
    recorder.close()
    close_to(numbers(recorder.clips[0]), 0, 15)


def test_it_needs_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"\.\[demo\]"):
        EventRecorder(tmp_path, "event", 10.0)

"""Key frames only, switched while a source runs: the right pictures, and the rest counted."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from streamzoo.streaming.sources import open_source

from .rtsp import make_clip


def make_b_frames(path, frames=60, gop=12):
    """H.264 whose pictures are stored out of order: three B frames between others."""
    with av.open(str(path), "w") as out:
        options = {"preset": "fast", "bf": "3", "g": str(gop), "sc_threshold": "0"}
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        ramp = np.add.outer(np.arange(48), np.arange(64)) * 2
        for i in range(frames):
            image = np.stack([ramp + 5 * i, ramp[::-1] + 3 * i, 255 - ramp], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def reference(path):
    """PyAV's own decode: (images, numbers of the key frames)."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    keys = [i for i, p in enumerate(pictures) if p.key_frame]
    return [p.to_ndarray(format="rgb24", interpolation="BILINEAR") for p in pictures], keys


@pytest.mark.parametrize("make", [make_clip, make_b_frames])
def test_a_file_switched_twice(tmp_path, make):
    clip = make(tmp_path / "clip.mp4", frames=60)
    images, keys = reference(clip)
    assert len(keys) >= 5 and len(images) == 60
    with open_source(clip) as source:
        before = [source.read() for _ in range(7)]
        source.keyframes_only = True
        # Packets are read ahead of pictures: what is in the decoder by now is still given.
        during = [source.read()]
        while len(during) < 3 or round(during[-2].time * 25) not in keys:
            during.append(source.read())
        assert source.drops["keyframes"] == source.dropped > 0
        source.keyframes_only = False
        after = list(source)
    frames = before + during + after
    numbers = [round(f.time * 25) for f in frames]
    assert numbers[:7] == list(range(7)) and numbers == sorted(set(numbers))
    assert round(during[-1].time * 25) in keys
    start = round(after[0].time * 25)  # from a key frame on, all of them
    assert start in keys and numbers[-len(after) :] == list(range(start, 60))
    assert len(frames) + source.dropped == 60
    for number, frame in zip(numbers, frames, strict=False):
        np.testing.assert_array_equal(frame.image, images[number])
    indices = [f.index for f in frames]
    assert (np.diff(indices) > 0).all() and indices[-1] == 59
    assert source.warning is None


def test_a_whole_file_of_key_frames(tmp_path):
    clip = make_b_frames(tmp_path / "clip.mp4")
    _, keys = reference(clip)
    with open_source(clip) as source:
        source.keyframes_only = True
        numbers = [round(f.time * 25) for f in source]
    ahead = [n for n in numbers if n not in keys]  # decoded on opening, before it was asked for
    assert [n for n in numbers if n in keys] == keys
    assert ahead == sorted(ahead) and len(ahead) < keys[1] + 12
    assert len(numbers) + source.drops["keyframes"] == 60 and source.warning is None


def test_a_live_source_shows_key_frames_at_once(tmp_path):
    clip = make_b_frames(tmp_path / "clip.mkv", frames=50, gop=10)
    _, keys = reference(clip)
    with open_source(clip, live=True, queue=50) as source:
        assert source.read(timeout=2) is not None
        source.keyframes_only = True
        time.sleep(0.3)  # what was in the decoder is still given
        while source.read(timeout=0) is not None:
            pass
        frames = [source.read(timeout=2) for _ in range(3)]
        assert {round(f.time * 25) for f in frames} <= set(keys) and source.state == "live"
        spacing = np.diff([f.time for f in frames])
        np.testing.assert_allclose(spacing, 0.4, atol=1e-3)
        np.testing.assert_allclose(np.diff([f.received for f in frames]), 0.4, atol=0.25)
        assert source.drops["keyframes"] >= 18 and source.stalls == 0
        source.keyframes_only = False
        after = [source.read(timeout=2) for _ in range(6)]
        steps = np.diff([f.time for f in after])
        assert (np.isclose(steps, 0.04, atol=1e-3)).sum() >= 4

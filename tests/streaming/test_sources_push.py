"""Pushed frames: pictures, order, limits, and the books, from many threads."""

import io
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamzoo.streaming.sources import PushSource, SourceError
from streamzoo.streaming.sources.jpeg import jpeg_size


def picture(level, size=(40, 56)):
    """A smooth one: what JPEG keeps."""
    ramp = np.add.outer(np.arange(size[0]), np.arange(size[1]))
    return np.stack([ramp + level, 200 - ramp, np.full(size, level)], -1).astype(np.uint8)


def jpeg(image, **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", **{"quality": 95, **options})
    return out.getvalue()


def test_arrays_and_jpeg_are_the_same_pictures():
    image = picture(30)
    with PushSource("door", fps=10.0) as source:
        assert source.live and source.credits == 8 and source.state == "live"
        assert source.push(image, 100.0) and source.push(jpeg(image), 100.1)
        before = time.monotonic()
        image[:] = 0  # the caller's again
        first, second = source.read(), source.read()
        assert source.read(timeout=0.02) is None and time.monotonic() - before < 1
    np.testing.assert_array_equal(first.image, picture(30))
    expected = np.asarray(Image.open(io.BytesIO(jpeg(picture(30)))), int)
    assert np.abs(second.image - expected).max() <= 6  # chroma is interpolated differently
    assert np.abs(second.image - expected).mean() < 1.5
    assert (first.captured, second.captured) == (100.0, 100.1)
    assert first.time == 0 and second.time == pytest.approx(0.1)
    assert [f.index for f in (first, second)] == [0, 1]
    for frame in (first, second):
        assert (frame.stream, frame.fps, frame.original_size) == ("door", 10.0, (40, 56))
        assert before - 5 < frame.received <= before and frame.image.flags.c_contiguous


def test_resized_by_the_reader_and_sizes_may_change():
    with PushSource(size=(24, 32), keep_original=True) as source:
        for size in ((40, 56), (48, 64), (24, 32)):
            source.push(jpeg(picture(9, size)))
            frame = source.read()
            assert frame.image.shape == (24, 32, 3) and frame.original.shape == (*size, 3)
            assert source.size == (24, 32) and frame.original_size == size
            assert abs(frame.captured - time.time()) < 5


def test_put_in_the_order_of_capture():
    order = [0, 2, 1, 4, 3, 5, 5, 6]
    with PushSource(delay=0.2, fps=30) as source:
        for k in order:
            source.push(picture(k), 5000 + k / 25)
        start = time.monotonic()
        levels = [int(source.read(timeout=1).image[0, 0, 2]) for _ in range(7)]
        assert levels == [0, 1, 2, 3, 4, 5, 6] and 0.05 < time.monotonic() - start < 1
        assert source.drops == {"duplicate": 1}
        source.push(picture(7), 5000 + 2 / 25)
        assert source.drops == {"duplicate": 1, "late": 1} and source.dropped == 2
        source.finish()
        assert source.read() is None and source.state == "closed"
        assert not source.push(picture(8)) and (source.taken, source.refused) == (9, 1)


def test_the_end_waits_for_nothing():
    with PushSource(delay=4.0, fps=30) as source:
        for k in (1, 0, 2):
            source.push(picture(k), k / 30)
        assert source.read(timeout=0) is None and source.held == 3
        source.finish()
        start = time.monotonic()
        assert [int(f.image[0, 0, 2]) for f in source] == [0, 1, 2]
        assert time.monotonic() - start < 2 and source.state == "closed"


@pytest.mark.parametrize("lossless", [False, True])
def test_a_full_queue(lossless):
    with PushSource(queue=2, lossless=lossless) as source:
        taken = [source.push(picture(k), k / 10) for k in range(5)]
        if lossless:
            assert taken == [True, True, False, False, False] and source.refused == 3
            reader = threading.Timer(0.1, source.read)
            reader.start()
            assert source.push(picture(2), 0.2, timeout=5) and source.credits == 0
            reader.join()
        else:
            assert all(taken) and source.drops == {"overflow": 3}
        source.finish()
        left = [int(f.image[0, 0, 2]) for f in source]
        assert left == ([1, 2] if lossless else [3, 4])
        assert source.taken == len(left) + source.dropped + lossless


@pytest.mark.parametrize(
    "bad, words",
    [
        (b"", "not a JPEG"),
        (b"\x89PNG" + bytes(50), "not a JPEG"),
        (b"\xff\xd8\xff\xe0\x00", "cut off"),
        (jpeg(picture(1))[:40], "cut off"),
        (bytes(4000), "4000 bytes"),
        (np.zeros((8, 8), np.uint8), "uint8"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((0, 8, 3), np.uint8), "RGB"),
        (np.zeros((80, 80, 3), np.uint8), "80 x 80"),
        (jpeg(np.zeros((80, 90, 3), np.uint8)), "90 x 80"),
        ("words", "uint8"),
    ],
)
def test_what_is_refused(bad, words):
    with PushSource("door", max_bytes=3000, max_pixels=6000) as source:
        with pytest.raises(SourceError, match=f"door: .*{words}"):
            source.push(bad)
        with pytest.raises(SourceError, match="capture time inf"):
            source.push(picture(1), float("inf"))
        assert source.push(picture(1)) and source.read() is not None
        assert (source.refused, source.taken) == (2, 1)


def test_jpeg_size_and_damage():
    for options in ({}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(300)}):
        assert jpeg_size(jpeg(picture(0, (41, 77)), **options)) == (41, 77)
    with PushSource() as source:
        good, rng, shown = jpeg(picture(3)), random.Random(0), 0
        for _ in range(300):
            bad = bytearray(good)
            for _ in range(rng.randint(1, 30)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            try:
                source.push(bad[: rng.randint(1, len(bad))])
            except SourceError:
                continue
            shown += source.read(timeout=0) is not None
        source.push(good, time.time() + 1)
        frame = source.read()
        assert np.abs(frame.image.astype(int) - picture(3)).mean() < 1.5  # nothing stuck
        assert source.taken == shown + 1 + source.corrupt and source.corrupt and source.refused


def test_a_size_that_lies_is_caught_by_the_decoder():
    """A small start-of-frame segment before the real one, which is beyond the limit."""
    big, small = jpeg(picture(3, (300, 400))), jpeg(picture(3, (8, 8)))
    at = small.index(b"\xff\xc0")
    segment = small[at : at + 2 + int.from_bytes(small[at + 2 : at + 4])]
    lie = big[:2] + segment + big[2:]
    assert jpeg_size(lie) == (8, 8)
    with PushSource(max_pixels=10000) as source:
        assert source.push(lie) and source.read(timeout=0) is None and source.corrupt == 1
    with PushSource() as source:  # it is the limit that stops it
        assert source.push(lie) and source.read(timeout=0).original_size == (300, 400)


def test_many_threads_and_a_close_in_the_middle():
    source, done = PushSource(queue=4, lossless=True), []

    def sender(seed):
        sent = 0
        while source.push(picture(seed, (8, 8)), timeout=5):
            sent += 1
        done.append(sent)

    threads = [threading.Thread(target=sender, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    frames = [source.read(timeout=5) for _ in range(200)]
    source.close()
    for thread in threads:
        thread.join(5)
    times, captured = [f.time for f in frames], [f.captured for f in frames]
    assert (np.diff(times) > 0).all() and (np.diff(captured) > 0).all()
    assert sum(done) == source.taken == 200 + source.dropped and source.held == 0
    assert source.refused == 4 and source.read() is None and source.state == "closed"


def test_numbers_that_make_no_sense():
    bad: dict[str, Any]
    for bad in (dict(delay=9.0), dict(queue=0), dict(fps=0.0), dict(fps=float("nan"))):
        with pytest.raises(SourceError, match="push: "):
            PushSource(**bad)

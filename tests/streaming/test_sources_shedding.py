"""When a source is decoded at its key frames only, and when all of it is tried again."""

import asyncio
import time

import numpy as np
import pytest

from streamzoo.streaming.engine import Costs, Engine, Feed
from streamzoo.streaming.sources import shedding
from streamzoo.streaming.sources.shedding import Shedding

from .serving import STEP, run
from .test_engine_feed import Recording


def play(overloaded, seconds=1200.0, fps=20.0):
    """[(second, active)] of a camera, of whose frames 80 % are lost while it is overloaded and
    all frames are decoded."""
    shed, changes, came, lost = Shedding(), [], 0, 0
    rng = np.random.default_rng(0)
    for k in range(int(seconds * fps)):
        now, before = k / fps, shed.active
        if not before or k % 40 == 0:
            came += 1
            lost += overloaded(now) and not before and rng.random() < 0.8
        if shed(now, came, lost) != before:
            changes.append((now, shed.active))
    return changes


def test_only_a_lasting_overload_counts_and_tries_grow_rarer():
    assert not play(lambda now: now % 20 < 7)  # bursts
    changes = play(lambda now: now > 100)  # for ever
    assert [active for _, active in changes] == [k % 2 == 0 for k in range(len(changes))]
    first = changes[0][0]
    assert 100 + 2 * shedding.WINDOW <= first <= 100 + 3 * shedding.WINDOW
    on = [b[0] - a[0] for a, b in zip(changes, changes[1:], strict=False) if a[1]]
    off = [b[0] - a[0] for a, b in zip(changes, changes[1:], strict=False) if not a[1]]
    assert len(on) >= 4 and max(off) <= 3 * shedding.WINDOW  # tries are short
    for hold, length in zip((30, 60, 120, 240), on, strict=False):
        assert hold <= length <= hold + 3 * shedding.WINDOW
    changes = play(lambda now: 100 < now < 130)  # over: all frames again, and it stays so
    assert [active for _, active in changes] == [True, False]
    assert changes[1][0] - changes[0][0] <= 30 + 3 * shedding.WINDOW


def test_half_of_the_frames_is_not_yet_too_much():
    shed = Shedding()
    assert not any(shed(k / 10, k, k // 2) for k in range(600))


class Camera(Recording):
    """Live, at 100 frames a second; every tenth is a key frame."""

    live_seconds = 0.01

    def __init__(self, images):
        super().__init__(images, live=True)
        self._skipped = 0

    @property
    def drops(self):
        return {"keyframes": self._skipped} if self._skipped else {}

    def read(self, timeout=None):
        while not self.closes and self.given < len(self.images):
            time.sleep(self.live_seconds)
            frame = super().read(timeout)
            if frame is None or not self.keyframes_only or frame.index % 10 == 0:
                return frame
            self._skipped += 1
        return super().read(timeout)


class Slow:
    """A step of 50 ms."""

    def __init__(self, step):
        self._step = step

    def __getattr__(self, name):
        return getattr(self._step, name)

    def __call__(self, *args, **kwargs):
        time.sleep(0.05)
        return self._step(*args, **kwargs)


@pytest.mark.parametrize("policy", ["latest", "lossless"])
def test_a_feed_sheds_and_every_frame_is_counted(monkeypatch, policy):
    for name, value in (("WINDOW", 0.2), ("HOLD", 60.0)):
        monkeypatch.setattr(shedding, name, value)

    async def main():
        slow = Engine(Slow(STEP), slots=1, buckets=(1,), costs=Costs({1: [0.05]}), max_load=1e9)
        async with slow as e:
            stream = e.add("cam", fps=100, budget=1.0, policy=policy)
            source = Camera(np.zeros((300, *e.frame_shape, 3), np.uint8))
            feed = Feed(source, stream)
            reading = asyncio.create_task(count(stream))
            while source.given < 200 and not (policy == "lossless" and source.given > 40):
                await asyncio.sleep(0.01)
            report = feed.report()
            assert report["keyframes_only"] == source.keyframes_only == (policy == "latest")
            await feed.close()
            answered = await asyncio.wait_for(reading, 30)
            books, skipped = stream.books, source.drops.get("keyframes", 0)
            held = source.given - feed.offered - skipped  # what waited for a credit at the end
            assert held == 0 or (policy == "lossless" and held == 1)
            assert books.received == feed.offered and books.balanced and not books.in_flight
            assert answered == books.completed
            if policy == "latest":
                assert skipped > 60 and sum(books.dropped.values()) > 10
            else:
                assert not skipped and not books.dropped

    run(main())


async def count(stream):
    return len([answer async for answer in stream])

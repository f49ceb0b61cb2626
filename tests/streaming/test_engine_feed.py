"""Sources that feed an engine: every frame accounted for on both sides, faults stay where they are.

The engine runs the stub of `test_engine`, whose answers depend on every frame and their order.
"""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from streamzoo.streaming.engine import Feed
from streamzoo.streaming.sources import Frame, FrameSource, PushSource, SourceError

from .test_engine import SIZE, engine, video


class Recording(FrameSource):
    """Frames from memory; may raise at one of them."""

    name, fps, size = "memory", 25.0, SIZE

    def __init__(self, images, fault=None, live=False):
        self.images, self.fault, self.given, self.closes = images, fault, 0, 0
        self.live = live

    def read(self, timeout=None):
        if self.closes or self.given == len(self.images):
            if self.live and not self.closes:
                time.sleep(timeout)
            return None
        if self.given == self.fault:
            raise SourceError("memory: it broke; buy another one")
        k, self.given = self.given, self.given + 1
        return Frame(self.images[k], k / 25, k, SIZE, time.monotonic(), captured=1e9 + k / 25)

    def close(self):
        self.closes += 1


async def collect(stream):
    return [answer async for answer in stream]


def balanced(stream):
    books = stream.books
    return books.balanced and books.in_flight == 0


def test_a_recording_goes_through_without_loss_and_in_order():
    images = video(0, 40)
    taps = []

    async def run():
        async with engine() as one:
            stream = one.add("cam", fps=25, policy="lossless", capacity=3)
            source = Recording(images)
            feed = Feed(source, stream, tap=lambda index, frame: taps.append((index, frame.index)))
            answers = await collect(stream)
            assert await feed.wait() is None and feed.state == "ended" and source.closes
            await feed.close()
            direct = one.add("direct", fps=25, policy="lossless")
            direct_answer: Any = None
            for image in images:
                await direct.push(image)
                direct_answer = await anext(direct)
        return stream, feed, answers, direct_answer

    stream, feed, answers, direct = asyncio.run(run())
    assert [a.index for a in answers] == list(range(40)) and feed.offered == 40
    assert [a.time for a in answers] == [1e9 + k / 25 for k in range(40)]
    np.testing.assert_array_equal(
        answers[-1].result.output["logits"], direct.result.output["logits"]
    )
    assert stream.books.completed == stream.books.received == 40 and balanced(stream)
    assert taps == [(k, k) for k in range(40)]
    assert feed.report() == {
        "state": "ended", "error": None, "source": "memory", "fps": 25.0, "delay": 0.0,
        "offered": 40,
        "dropped": {}, "corrupt": 0, "reconnects": 0, "stalls": 0, "missed": 0,
        "keyframes_only": False,
    }  # fmt: skip


def test_a_failing_source_ends_its_own_stream_only():
    async def run():
        async with engine() as one:
            streams = {k: one.add(k, fps=25, policy="lossless") for k in ("good", "bad", "misfit")}
            feeds = {
                "good": Feed(Recording(video(1, 30)), streams["good"]),
                "bad": Feed(Recording(video(2, 30), fault=7), streams["bad"]),
                "misfit": Feed(Recording(np.zeros((3, 9, 9, 3), np.uint8)), streams["misfit"]),
            }
            answers = await asyncio.gather(*(collect(s) for s in streams.values()))
            errors = {k: await feed.wait() for k, feed in feeds.items()}
            assert all(feed.source.closes for feed in feeds.values())
        return streams, feeds, dict(zip(streams, map(len, answers), strict=False)), errors

    streams, feeds, counts, errors = asyncio.run(run())
    assert counts == {"good": 30, "bad": 7, "misfit": 0}
    assert errors["good"] is None and errors["bad"] == "memory: it broke; buy another one"
    why = errors["misfit"] or ""
    assert "'misfit'" in why and "resize it at the source" in why
    assert [f.state for f in feeds.values()] == ["ended", "failed", "failed"]
    assert all(balanced(s) for s in streams.values())


@pytest.mark.parametrize("how", ["feed", "stream", "blocked"])
def test_closed_in_the_middle(how):
    """From either side, and while the feed waits for a credit."""

    async def run():
        async with engine() as one:
            stream = one.add("cam", fps=25, policy="lossless", capacity=2)
            source = Recording(video(3, 5), live=True)
            if how == "blocked":
                stream.pause()
            feed = Feed(source, stream)
            await asyncio.sleep(0.1)
            async with asyncio.timeout(10):  # a busy machine takes longer
                while feed.offered < {"feed": 5, "blocked": 2}.get(how, 1):
                    await asyncio.sleep(0.01)
            if how == "stream":
                stream.close()
            else:
                await asyncio.wait_for(feed.close(), 2)
            if how == "blocked":
                assert stream.books.received == 2 and feed.offered == 2
                stream.close()
            answers = await collect(stream)
            assert await asyncio.wait_for(feed.wait(), 2) is None
            assert feed.state == "ended" and source.closes == 1
            assert len(answers) == {"feed": 5, "blocked": 0}.get(how, len(answers))
            assert balanced(stream)

    threads, before = threading.active_count(), {*threading.enumerate()}
    asyncio.run(run())  # a server's workers, from another test of this process, may be there
    left = {*threading.enumerate()} - before
    ours = [t for t in left if t.name.startswith("streamzoo")]
    for thread in ours:  # it has said that it ended, and on a busy machine ends a moment later
        thread.join(10)
    assert not [t for t in ours if t.is_alive()]
    assert threading.active_count() <= threads + 8


def test_pushed_frames_are_counted_by_the_source_and_the_engine():
    """Latest wins twice: what was pushed is either answered or dropped, by one of the two."""

    async def run():
        async with engine() as one:
            stream = one.add("door", fps=25)
            source = PushSource("door", size=SIZE, fps=25.0, queue=3)
            feed = Feed(source, stream, event=lambda frame: frame.index % 2 == 0)
            for image in video(4, 60):
                assert await asyncio.to_thread(source.push, image)
            source.finish()
            answers = await asyncio.wait_for(collect(stream), 20)
            assert await feed.wait() is None
        return source, stream, feed, answers

    source, stream, feed, answers = asyncio.run(run())
    books = stream.books
    assert source.taken == 60 == feed.offered + source.dropped and source.held == 0
    assert books.received == feed.offered == books.completed + sum(books.dropped.values())
    assert len(answers) == books.completed - books.overwritten > 0
    assert feed.report()["dropped"] == dict(source.drops)
    assert answers[-1].time <= time.time()


def test_only_marked_frames_stay_under_load():
    async def run():
        async with engine() as one:
            stream = one.add("cam", fps=25, policy="events", capacity=6)
            stream.pause()
            feed = Feed(Recording(video(5, 40)), stream, event=lambda f: f.index in (3, 17, 33))
            assert await feed.wait() is None
            stream.resume()
            return stream, await collect(stream)

    stream, answers = asyncio.run(run())
    assert {a.index for a in answers if a.event} == {3, 17, 33} and len(answers) == 6
    assert stream.books.dropped == {"superseded": 34}

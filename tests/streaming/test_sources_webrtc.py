"""WebRTC: an aiortc peer publishes to `answer_offer` on loopback; the process is killed."""

import asyncio
import fractions
import os
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("aiortc", reason="the extra `webrtc` is not installed")

import aioice.ice
import aiortc
import av
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack

from streamzoo.streaming.sources import SourceError, answer_offer

RATE = 20


class Clip(MediaStreamTrack):
    """Grey pictures that become brighter, at RATE a second; half way they change their size."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.sent = 0

    async def recv(self):
        await asyncio.sleep(1 / RATE)
        size = (64, 96) if self.sent < 12 else (96, 64)
        image = np.full((*size, 3), 20 + 4 * self.sent % 200, np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.sent * 90000 // RATE, fractions.Fraction(1, 90000)
        self.sent += 1
        return frame


OPENED = []


@pytest.fixture
def loopback(monkeypatch):
    """aioice leaves loopback out; the other peer is told by `host`. Leaves no process behind."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    yield
    while OPENED:
        OPENED.pop().close()


async def publish(video=True, **options):
    """(peer, source), connected; a sound track beside the pictures."""
    peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    peer.addTrack(AudioStreamTrack())
    if video:
        peer.addTrack(Clip())
    await peer.setLocalDescription(await peer.createOffer())
    try:
        answer, source = await asyncio.to_thread(
            answer_offer, peer.localDescription.sdp, host="127.0.0.1", **options
        )
    except BaseException:
        await peer.close()
        raise
    OPENED.append(source)
    await peer.setRemoteDescription(aiortc.RTCSessionDescription(answer, "answer"))
    return peer, source


async def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_frames_of_a_peer_until_it_leaves(loopback):
    threads = threading.active_count()

    async def run():
        peer, source = await publish(stream="phone", size=(24, 32), keep_original=True)
        assert source.live and source.size == (24, 32)
        frames = [await asyncio.to_thread(source.read, 10) for _ in range(20)]
        await peer.close()
        while (frame := await asyncio.to_thread(source.read, 5)) is not None:
            frames.append(frame)
        return source, frames

    source, frames = asyncio.run(run())
    assert source.state == "closed" and source.warning and "the peer" in source.warning
    source.close()
    source.close()
    times = [f.time for f in frames]
    assert (np.diff(times) > 0).all() and times[0] == 0
    steps = np.diff(times) / np.diff([f.index for f in frames])
    np.testing.assert_allclose(steps, 1 / RATE, atol=0.01)
    assert {f.original_size for f in frames} == {(64, 96), (96, 64)}  # both, resized alike
    assert {f.image.shape for f in frames} == {(24, 32, 3)}
    assert all(f.original.shape == (*f.original_size, 3) for f in frames)
    levels = np.array([f.image.mean() for f in frames])
    np.testing.assert_allclose(np.diff(levels), 4 * np.diff([f.index for f in frames]), atol=2.5)
    assert {f.stream for f in frames} == {"phone"}
    assert frames[0].fps is None and frames[-1].fps == pytest.approx(RATE, rel=0.2)
    assert all(abs(f.captured - (time.time() - time.monotonic()) - f.received) < 2 for f in frames)
    assert frames[-1].index + 1 == len(frames) + source.dropped
    assert source._process.returncode == 0
    assert threading.active_count() <= threads + 8  # asyncio's own workers, none of ours


def test_a_killed_process_is_reported_and_a_stopped_one_noticed(loopback, monkeypatch):
    monkeypatch.setattr("streamzoo.streaming.sources.webrtc.WebRtcSource.STALL", 0.4)

    async def run():
        peer, source = await publish(size=(24, 32))
        assert await asyncio.to_thread(source.read, 10) is not None
        before = source.stalls  # a busy machine makes pauses of its own
        os.kill(source._process.pid, signal.SIGSTOP)
        await until(lambda: source.stalls > before and source.state == "stalled")
        os.kill(source._process.pid, signal.SIGCONT)
        await until(lambda: source.state == "live" and source.drops["overflow"] > 3)  # unread
        os.kill(source._process.pid, signal.SIGKILL)
        with pytest.raises(SourceError, match="webrtc: .*killed by SIGKILL; connect again"):
            for _ in range(50):
                await asyncio.to_thread(source.read, 5)
        assert source.state == "closed"
        await peer.close()
        await asyncio.to_thread(source.close)

    asyncio.run(run())


def test_a_process_that_stays_stopped_is_given_up(loopback):
    async def run():
        peer, source = await publish(size=(24, 32), silence=2.0)
        assert await asyncio.to_thread(source.read, 10) is not None
        os.kill(source._process.pid, signal.SIGSTOP)
        with pytest.raises(SourceError, match="webrtc: no picture for 2 s; connect again"):
            for _ in range(9):
                await asyncio.to_thread(source.read, 5)
        assert source._process.wait(5) == -signal.SIGKILL
        await peer.close()
        await asyncio.to_thread(source.close)

    asyncio.run(run())


def test_offers_that_cannot_be_answered(loopback):
    with pytest.raises(SourceError, match="webrtc: the offer has no video"):
        asyncio.run(publish(video=False))
    with pytest.raises(SourceError, match="door: "):
        answer_offer("v=0\r\nnonsense", stream="door", host="127.0.0.1")
    with pytest.raises(SourceError, match="no answer in 0.01 s"):
        answer_offer("v=0", timeout=0.01)


def test_pictures_that_cannot_be_made_end_the_source_with_the_reason(loopback):
    async def run():
        peer, source = await publish(size=(-24, 32))  # swscale refuses
        with pytest.raises(SourceError, match="webrtc: .*Error.*; connect again"):
            await asyncio.to_thread(source.read, 10)
        assert source.state == "closed"
        await peer.close()
        await asyncio.to_thread(source.close)

    asyncio.run(run())

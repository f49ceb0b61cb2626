"""Sound in the server: words as a listener alone gives them, every sample counted, over a crash."""

import asyncio
import contextlib
import json

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from streamzoo.streaming.listening import RATE, Cutting, Listener
from streamzoo.streaming.serve.client import Client, ClientError
from streamzoo.streaming.serve.limits import Limits, ServeError
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.sound_client import SoundClient
from streamzoo.streaming.serve.sound_session import ROOM, record_of
from streamzoo.streaming.serve.sounds import Sounds
from streamzoo.streaming.serve.store import Store
from streamzoo.streaming.serve.wire import JPEG, PCM, FrameMessage, pack
from streamzoo.zoo.speech.agreed import Agreeing
from streamzoo.zoo.speech.moonshine.tokens import Tokens
from streamzoo.zoo.speech.saying import Saying

from ..zoo.small_speech import AUDIO, PIECES, small
from .serving import engine, run
from .spoken import Counting, Likely, spoken
from .stub import video

SOUND = spoken((0.6, 0), (1.5, 0.9), (1, 0), (0.7, 0.6), (1, 0), (1.2, 0.9))
PCM16 = (SOUND * 32767).astype("<i2")


@pytest.fixture(autouse=True)
def likely(monkeypatch):
    monkeypatch.setattr("streamzoo.streaming.listening.load", lambda name: (Likely(), {}))


def alone(pcm, begin=Counting, cutting=None):
    """The records of a listener that nothing interrupts."""
    listener = Listener(cutting=cutting, begin=begin)
    said = [*listener.push(pcm.astype(np.float32) / 32768), *listener.flush()]
    return [record_of(u) for u in said if u.fresh or u.final]


def bare(records):
    return [{k: v for k, v in r.items() if k not in ("seq", "type", "limit", "durable")}
            for r in records]  # fmt: skip


def test_words_are_those_of_a_listener_and_every_sample_is_counted():
    async def main():
        async with engine() as own, Server(own, Settings(port=0), ("counting", Counting)) as server:
            async with SoundClient(server.address, name="desk") as client:
                for start in range(0, len(PCM16), 3333):
                    await client.send(PCM16[start : start + 3333])
                await client.finish()
                records = [record async for record in client]
            assert bare(records) == alone(PCM16) and len(records) > 8
            assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
            books = client.end["samples"]
            assert books == {"received": len(PCM16), "heard": len(PCM16), "waiting": 0,
                             "dropped": 0, "skipped": 0, "repeated": 0}  # fmt: skip
            assert client.opened["rate"] == RATE and client.end["reason"] == "finished"
            # pictures beside it, and both on the dashboard
            async with Client(server.address, policy="lossless", name="cam") as camera:
                for frame in video(1, 3):
                    await camera.send(frame)
                await camera.finish()
                assert len([result async for result in camera]) == 3
            board = server.sounds.report()[0]
            assert board["caption"]["text"].endswith(records[-1]["words"][-1]["text"])

    run(main())


def test_the_dashboard_shows_captions():
    from streamzoo.streaming.serve.dashboard import Dashboard

    async def main():
        async with engine() as own, Server(own, Settings(port=0), ("counting", Counting)) as server:
            session = await server.sounds.open(name="desk")
            session.offer(0, PCM16[: 2 * RATE])
            while session.waiting:
                await asyncio.sleep(0.01)
            row = (await Dashboard(server.sessions, server.sounds).state())["streams"][0]
            assert row["name"] == "desk" and row["completed"] == 2.0
            assert row["caption"]["text"].startswith("w0 w1") and row["caption"]["maybe"]

    run(main())


def test_what_a_sender_does_wrong_is_told_and_costs_nobody_else():
    async def main():
        async with engine() as own, Server(own, Settings(port=0), ("counting", Counting)) as server:

            async def opened(hello):
                line = await connect(server.address.replace("http", "ws") + "/ws")
                await line.send(json.dumps(hello))
                return line, json.loads(await line.recv())

            async def told(line):
                while True:
                    message = json.loads(await line.recv())
                    if message["type"] not in ("credits", "maybe", "result"):
                        return message

            _, answer = await opened({"type": "open", "sound": True, "rate": 44_100})
            assert answer["code"] == "bad_request" and "resample" in answer["message"]
            _, answer = await opened({"type": "resume", "sound": True, "token": "no"})
            assert answer["code"] == "unknown_token"
            line, answer = await opened({"type": "open", "sound": True})
            assert answer["limit"] == ROOM
            sound = lambda index, data: pack(FrameMessage(PCM, index, data))
            for data, code, says in (
                (sound(0, b"abc"), "bad_frame", "whole 16-bit samples"),
                (sound(0, b""), "bad_frame", "at least one"),
                (sound(9, b"ab"), "gap", "0 is due"),
                (sound(0, bytes(2 * ROOM + 2)), "no_credit", "limit is"),
                (pack(FrameMessage(JPEG, 0, b"x")), "bad_request", "16-bit PCM"),
                (json.dumps({"type": "go"}), "bad_request", "'go'"),
            ):
                await line.send(data)
                answer = await told(line)
                assert answer["code"] == code and says in answer["message"]
            session = server.sounds.by_name["sound0"]
            assert session.received == session.next == 0
            # the same again, and more of it: each sample once
            await line.send(sound(0, PCM16[:4000].tobytes()))
            await line.send(sound(1000, PCM16[1000:9000].tobytes()))
            while session.heard < 9000:
                await asyncio.sleep(0.01)
            assert session.repeated == 3000 and session.received == 9000
            await line.send(json.dumps({"type": "skip", "to": 5}))
            assert "9000 is due" in (await told(line))["message"]
            # what was lost ends what was being said, and times go on
            await line.send(sound(9000, PCM16[9000:30_000].tobytes()))
            await line.send(json.dumps({"type": "skip", "to": 30_000 + 5 * RATE}))
            await line.send(sound(30_000 + 5 * RATE, PCM16[:30_000].tobytes()))
            await line.send(json.dumps({"type": "finish"}))
            rows, message = [], {}
            async for text in line:
                message = json.loads(text)
                rows += [message] if message["type"] == "result" else []
                if message["type"] == "end":
                    break
            assert message["samples"]["skipped"] == 5 * RATE
            assert message["samples"]["heard"] == 60_000 == message["samples"]["received"]
            last = [r for r in rows if r["final"]][-1]
            assert last["start"] == pytest.approx((30_000 + 5 * RATE) / RATE + 0.6, abs=0.05)
            assert rows[-1]["words"][-1]["end"] <= (60_000 + 5 * RATE) / RATE + 0.03

        async with engine() as own, Server(own, Settings(port=0)) as server:
            with pytest.raises(ClientError, match="--listen MODEL"):
                async with SoundClient(server.address) as client:
                    await anext(client)

    run(main())


def test_a_client_has_its_share_and_an_empty_stream_ends():
    async def main():
        sounds = Sounds(Counting, "counting", Limits(streams_per_client=1, ttl=0.1))
        session = await sounds.open("me", "a")
        hold = session.attach()
        for name, code in (("b", "too_many"), (None, "too_many")):
            with pytest.raises(ServeError) as told:
                await sounds.open("me", name)
            assert told.value.code == code
        with pytest.raises(ServeError, match="another name"):
            await sounds.open("you", "a")
        session.finish()
        while session.ended is None:
            await asyncio.sleep(0.01)
        assert session.ended == "finished" and session.report()["samples"]["received"] == 0
        with pytest.raises(ServeError, match="hears nothing any more"):
            session.offer(0, PCM16[:5])
        hold.detach()
        await asyncio.sleep(0.3)
        assert not sounds.by_name  # nobody came back
        await sounds.close()

    run(main())


def test_patience_begins_when_a_line_breaks_not_when_it_was_made(monkeypatch):
    """A server that dies after longer than that may still take its time to come back."""
    lines = iter(("first", OSError("nobody is there"), "second"))

    @contextlib.asynccontextmanager
    async def connect(*_: object, **__: object):
        line = next(lines)
        if isinstance(line, OSError):
            raise line
        yield line

    class Broken(SoundClient):
        async def _talk(self, line):
            if line == "first":
                await asyncio.sleep(0.4)
                raise ConnectionClosedError(None, None)
            self.end = {"reason": "finished"}

    monkeypatch.setattr("streamzoo.streaming.serve.sound_client.connect", connect)

    async def main():
        async with Broken("http://127.0.0.1:9", patience=0.3) as client:
            assert [record async for record in client] == []
        assert client.end == {"reason": "finished"}

    run(main())


def test_after_a_crash_the_words_are_the_same(tmp_path):
    """State is saved in the middle of an utterance; a second process goes on from there."""
    model, params = small()
    begin = lambda: Saying(Agreeing(model, params, every=0.2, longest=3.0), Tokens(PIECES).words)
    cutting = Cutting(longest=2)
    audio = np.concatenate([np.zeros(8000), np.tile(AUDIO, 2), np.zeros(RATE), AUDIO])
    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2")
    want = alone(pcm, begin, cutting)

    async def main():
        make = lambda: Sounds(begin, "small", store=Store(tmp_path), every=1e9, cutting=cutting)
        first = make()
        session = await first.open("me", "desk")
        hold, got = session.attach(), []

        async def heard(session, hold, until, got):
            while session.place < until and not session.ended:
                await asyncio.sleep(0.01)
            for record in session.recent.after(hold.cursor)[1]:
                hold.cursor = record["seq"]
                got.append(dict(record))

        session.offer(0, pcm[:30_000])
        await heard(session, hold, 30_000, got)
        assert await first.save(session) and session.durable == 30_000
        session.offer(30_000, pcm[30_000:44_000])  # heard, told, and not saved
        await heard(session, hold, 44_000, got)
        assert session.durable == 30_000
        told = len(got)
        second = make()  # the first is not asked, as if it had died
        again = await second.find(session.token)
        assert again.next == 30_000 and again.recent.last < told
        hold = again.attach(after=got[-1]["seq"])
        for start in range(30_000, len(pcm), 20_000):
            again.offer(start, pcm[start : start + 20_000])
            await heard(again, hold, min(start + 20_000, len(pcm)), got)
        again.finish()
        await heard(again, hold, 1 << 60, got)
        assert bare(got) == want and len(want) > told > 2
        assert [r["seq"] for r in got] == list(range(1, len(got) + 1))
        books = again.report()["samples"]
        assert books["received"] == books["heard"] == len(pcm)
        # who was there before is refused from now on
        assert not await first.save(session) and session.ended
        with pytest.raises(ServeError, match="no sound has this token"):
            await second.find("another")
        other = Sounds(Counting, "counting", store=Store(tmp_path), every=1e9)
        with pytest.raises(ServeError, match="no sound has this token"):  # of another recogniser
            await other.find(session.token)
        for sounds in (first, second, other):
            await sounds.close()

    run(main(), 600)

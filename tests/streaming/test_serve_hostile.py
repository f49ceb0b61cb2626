"""Hostile clients: malformed messages by the thousand and connections that stay silent."""

import asyncio
import random

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from streamzoo.streaming.serve import Limits
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.server import Server
from streamzoo.streaming.serve.wire import JPEG, RAW, FrameMessage, pack

from .serving import alone, engine, logits, run
from .stub import SIZE, video
from .test_serve_web import jpeg, line, lossless, say, send_all, settings


def malformed(rng):
    """One message that no server should take, text or bytes."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return rng.choice(["{", "[" * 5000, "null", '"x"', '{"type": 3}', '{"type": "open"}', ""])
    if kind == 2:
        value = rng.choice(["-1", "1e99", "null", "true", '"x"', "9" * 400, "[]", "NaN"])
        key = rng.choice(["ack", "skip"])
        return f'{{"type": "{key}", "seq": {value}, "to": {value}}}'
    if kind == 3:
        data = bytearray(jpeg(np.zeros((16, 16, 3), np.uint8)))
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return pack(FrameMessage(JPEG, rng.randrange(3), bytes(data[: rng.randrange(len(data))])))
    if kind == 4:
        size = rng.choice([(0, 0), (65535, 65535), SIZE])
        return pack(FrameMessage(RAW, rng.randrange(1 << 60), rng.randbytes(9), None, True, *size))
    return pack(FrameMessage(rng.choice([0, 7, 255]), 0, b""))


@pytest.mark.slow
def test_ten_thousand_malformed_messages_disturb_nobody():
    frames = video(1, 200)
    rng = random.Random(0)

    async def attack(server):
        sent = 0
        while sent < 10_000:
            try:
                async with line(server) as socket:
                    if rng.random() < 0.9:
                        await say(socket, type="open", policy="lossless", name="victim")
                    for _ in range(100):
                        await socket.send(malformed(rng))
                        sent += 1
                    await say(socket, type="close")
                    while True:
                        await socket.recv()
            except ConnectionClosed:
                pass
            for session in list(server.sessions.by_name.values()):
                if session.name == "victim" and session.attached is None:
                    server.sessions.remove(session)

    async def main():
        async with engine() as e, Server(e, settings(limits=Limits(message=8192))) as server:
            async with lossless(server) as client:
                attacker = asyncio.create_task(attack(server))

                async def send():
                    for frame in frames:
                        await client.send(frame)
                        await asyncio.sleep(0.02)
                    await attacker
                    await client.finish()

                task = asyncio.create_task(send())
                results = [r async for r in client]
                await task
                assert client.reconnects == 0 and not client.errors
            assert [r.index for r in results] == list(range(200))
            np.testing.assert_array_equal(
                logits([r.output for r in results]), logits(alone(frames))
            )

    run(main(), 300)


@pytest.mark.slow
def test_a_thousand_silent_connections_are_closed_and_disturb_nobody():
    frames = video(2, 60)

    async def main():
        limits = Limits(handshake=2.0, connections=2048)
        async with engine() as e, Server(e, settings(limits=limits)) as server:
            host, port = server.address.removeprefix("http://").split(":")
            async with lossless(server) as client:
                silent = [await asyncio.open_connection(host, int(port)) for _ in range(1000)]
                task = asyncio.create_task(send_all(client, frames))
                assert len([r async for r in client]) == 60
                await task
            async with Client(server.address) as late:  # a newcomer is let in
                assert late.opened
            ends = [asyncio.wait_for(reader.read(), 30) for reader, _ in silent]
            assert set(await asyncio.gather(*ends)) == {b""}
            for _, writer in silent:
                writer.close()

    run(main(), 120)

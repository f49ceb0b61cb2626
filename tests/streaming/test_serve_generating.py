"""Video that a server makes: blocks at the video's rate, queues, prompts, and the WebSocket."""

import asyncio
import io
import json
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import connect

from streamzoo.streaming.generating import Look
from streamzoo.streaming.serve import ServeError
from streamzoo.streaming.serve.generating import unpacked
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.studio import Studio
from streamzoo.zoo.generate import Generator, Made
from streamzoo.zoo.generate.balls import picture
from streamzoo.zoo.generate.balls.names import stream

from .serving import engine, run


class Counted(Generator):
    """Says which streams were given a new prompt, and which took part."""

    switched: list
    stepped: list

    def switch(self, state, condition, *, which=None):
        self.switched.append(np.asarray(which).tolist())
        return super().switch(state, condition, which=which)

    def step(self, state, condition, *, active=None, **more):
        self.stepped.append((np.asarray(active).tolist(), condition.argmax(-1)[:, 0].tolist()))
        return super().step(state, condition, active=active, **more)


GENERATOR = Counted.create("balls-tiny", rollout=stream())
LOOK = Look(
    "balls", picture.CLASSES, 60.0, picture.condition,
    lambda latents, size: picture.draw(latents.reshape(len(latents), -1), 16),
)  # fmt: skip


def studio(**more):
    GENERATOR.switched, GENERATOR.stepped = [], []
    return Studio(GENERATOR, LOOK, slots=3, **more)


async def some(take, count):
    return [await anext(take) for _ in range(count)]


class AtOnce:
    """A generator that takes no time."""

    rollout = stream()

    def start(self, batch=1, *, seed=0):
        return jnp.zeros((batch, 1))

    def switch(self, state, condition, *, which):
        return state

    def step(self, state, condition, *, active):
        return state, Made(jnp.zeros((3, 3, 32)), active, jnp.zeros(3, int))


def test_blocks_come_at_the_rate_of_the_video():
    async def main():
        async with Studio(AtOnce(), LOOK._replace(fps=6.0), slots=3) as made:
            warm = made.open("tiny")
            await some(warm, 3)
            warm.end()
            began = time.monotonic()
            await some(made.open("tiny"), 9)
            assert time.monotonic() - began > 0.95  # the third block begins after a second

    run(main())


def test_each_stream_is_its_own():
    async def main():
        async with studio(queue=60) as made:
            one, two = made.open("tiny", seed=1), made.open("huge", seed=1)
            first, second = await some(one, 12), await some(two, 12)
            assert [s.index for s in first] == [*range(12)] == [s.index for s in second]
            assert {s.name for s in first} == {"tiny"} and {s.name for s in second} == {"huge"}
            assert first[-1].jpeg != second[-1].jpeg
            one.end()
            again = made.open("tiny", seed=1)  # takes its slot, and begins anew
            assert again.slot == one.slot
            assert [s.jpeg for s in await some(again, 6)] == [s.jpeg for s in first[:6]]
            with pytest.raises(ServeError, match="no class 'red'"):
                again.ask("red")
            made.open()
            with pytest.raises(ServeError, match="3 streams are made at once"):
                made.open()

    run(main())


def test_a_slow_client_loses_the_oldest_and_a_new_class_overtakes_what_waits():
    async def main():
        async with studio() as made:
            take = made.open("tiny")
            await some(take, 3)
            while take.made < 24:
                await asyncio.sleep(0.01)
            assert len(take.frames) == 6 and take.dropped == take.made - 9
            first = await anext(take)
            assert first.index == take.made - 6  # the oldest are gone
            GENERATOR.switched.clear()
            take.ask("huge")
            while take.name != "huge":
                await asyncio.sleep(0.01)
            shown = await some(take, 3)
            assert {s.name for s in shown} == {"huge"}
            assert GENERATOR.switched == [[True, False, False]]
            # nothing of the old class is left, and every frame is accounted for
            rest = len(take.frames)
            assert take.made == take.dropped + 3 + 1 + 3 + rest

    run(main())


def test_nothing_is_made_for_nobody():
    async def main():
        async with studio() as made:
            take = made.open("tiny")
            await some(take, 3)
            take.end()
            await asyncio.sleep(0.3)
            count = len(GENERATOR.stepped)
            await asyncio.sleep(0.3)
            assert len(GENERATOR.stepped) == count
            assert [s async for s in take] == [*take.frames]

    run(main())


async def hear(socket, kind) -> Any:
    """(header, JPEG) of the next frame, or the next message of another kind."""
    while True:
        message = await socket.recv()
        if isinstance(message, bytes) == (kind == "frame"):
            if kind == "frame":
                return unpacked(message)
            message = json.loads(message)
            if message["type"] == kind:
                return message


def test_the_websocket_sends_frames_and_takes_prompts():
    async def main():
        async with (
            engine() as e,
            studio() as made,
            Server(e, Settings(port=0), studio=made) as server,
        ):
            address = server.address.replace("http", "ws") + "/generate"
            async with connect(address) as socket:
                await socket.send(json.dumps({"type": "generate", "class": "tiny", "seed": 5}))
                hello = json.loads(await socket.recv())
                assert hello == {
                    "type": "generating", "model": "balls", "classes": [*picture.CLASSES],
                    "fps": 60.0, "block": 3,
                }  # fmt: skip
                header, data = await hear(socket, "frame")
                assert header["class"] == "tiny" and 0 <= header["age_ms"] < 20_000
                assert Image.open(io.BytesIO(data)).size == (16, 16)
                await socket.send(json.dumps({"type": "prompt", "class": "red"}))
                error = await hear(socket, "error")
                assert (error["code"], "no class 'red'" in error["message"]) == (
                    "bad_request",
                    True,
                )
                await socket.send(json.dumps({"type": "prompt", "class": "huge"}))
                assert (await hear(socket, "prompt"))["class"] == "huge"
                seen = [header["index"]]
                while header["class"] == "tiny":
                    header, _ = await hear(socket, "frame")
                    seen.append(header["index"])
                assert header["class"] == "huge" and header["index"] % 3 == 0
                assert seen == sorted(set(seen))
                await socket.send(json.dumps({"type": "close"}))
                end = await hear(socket, "end")
                assert end["frames"] >= len(seen)
            async with connect(address) as socket:
                await socket.send(json.dumps({"type": "generate", "class": "red"}))
                assert json.loads(await socket.recv())["code"] == "bad_request"
            assert not made.takes

    run(main())


def test_a_server_without_a_generator_says_so():
    async def main():
        async with engine() as e, Server(e, Settings(port=0)) as server:
            async with connect(server.address.replace("http", "ws") + "/generate") as socket:
                await socket.send(json.dumps({"type": "generate"}))
                said = json.loads(await socket.recv())
                assert "start it with --generate NAME" in said["message"]

    run(main())

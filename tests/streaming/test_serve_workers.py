"""What blocks has workers of its own: nobody waits for a camera that never answers."""

import asyncio
import socket
import threading
import time

import numpy as np
import pytest

from streamzoo.streaming.serve import ServeError, inputs
from streamzoo.streaming.serve.conversation import Conversation
from streamzoo.streaming.serve.inputs import add_source
from streamzoo.streaming.serve.pictures import Pictures
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.snapshots import Snapshots
from streamzoo.streaming.serve.spec import Spec
from streamzoo.streaming.serve.wire import RAW, FrameMessage
from streamzoo.streaming.serve.workers import Workers

from .rtsp import make_clip
from .serving import engine, run


def test_calls_run_at_once_up_to_the_bound_and_then_in_turn():
    async def main():
        workers, gate, running, most = Workers("test", 3, waiting=2), threading.Event(), [], []

        def call(k):
            running.append(k)
            most.append(len(running))
            gate.wait(10)
            running.remove(k)
            return k

        tasks = [asyncio.create_task(workers.run(call, k)) for k in range(5)]
        while len(running) < 3:
            await asyncio.sleep(0.01)
        with pytest.raises(ServeError, match="2 calls wait for test"):
            await workers.run(call, 9)
        gate.set()
        assert await asyncio.gather(*tasks) == list(range(5))
        assert max(most) == 3
        assert await workers.run(call, 7) == 7
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 / 0)

    run(main())


def test_a_call_that_is_given_up_does_not_run_and_a_stuck_one_holds_nothing():
    async def main():
        workers, gate, ran = Workers("test", 1), threading.Event(), []
        stuck = asyncio.create_task(workers.run(gate.wait, 30))
        waits = asyncio.create_task(workers.run(ran.append, 1))
        await asyncio.sleep(0.05)
        waits.cancel()
        stuck.cancel()
        await asyncio.gather(stuck, waits, return_exceptions=True)
        gate.set()
        await workers.run(ran.append, 2)
        assert ran == [2]

    run(main())
    assert all(t.daemon for t in threading.enumerate() if t.name == "streamzoo test")


def test_each_kind_of_work_is_done_by_its_own_workers(tmp_path, monkeypatch):
    """And none of it on the event loop, which everybody waits for."""
    clip, done = make_clip(tmp_path / "clip.mp4", frames=25), {}

    def noted(owner, name, kind):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            done.setdefault(kind, set()).add(threading.current_thread().name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    noted(inputs, "open_source", "opening")
    noted(Pictures, "__call__", "decoding")
    noted(Snapshots, "_write", "saving")
    noted(Snapshots, "_read", "saving")

    async def main():
        settings = Settings(port=0, store=tmp_path / "store", every=0.05)
        async with engine() as e, Server(e, settings) as server:
            session = await add_source(server.sessions, str(clip), Spec(fps=5), name="door")
            talk = Conversation(server.sessions, "me")
            height, width = (await talk.begin({"type": "open", "fps": 5, "budget_ms": 2000}))[
                "size"
            ]
            black = np.zeros((height, width, 3), np.uint8).tobytes()
            assert await talk.frame(FrameMessage(RAW, 0, black, None, False, height, width)) is None
            while not session.saved:
                await asyncio.sleep(0.01)
            talk.end()

    run(main())
    assert done == {kind: {f"streamzoo {kind}"} for kind in ("opening", "decoding", "saving")}


def test_dead_cameras_cost_nobody_else_anything_and_the_shutdown_is_bounded(tmp_path):
    """Twenty that accept and say nothing; meanwhile pictures are decoded, a file is opened, states
    are saved, and the drain ends."""
    hole = socket.create_server(("127.0.0.1", 0), backlog=64)
    clip = make_clip(tmp_path / "clip.mp4", frames=25)
    address = f"rtsp://127.0.0.1:{hole.getsockname()[1]}"

    async def main():
        settings = Settings(port=0, store=tmp_path / "store", every=0.05)
        async with engine() as e, Server(e, settings) as server:
            adding = [
                asyncio.create_task(add_source(server.sessions, f"{address}/{k}", name=f"dead{k}"))
                for k in range(20)
            ]
            await asyncio.sleep(0.2)
            start = time.monotonic()
            talk = Conversation(server.sessions, "me")
            opened = await talk.begin({"type": "open", "fps": 5, "budget_ms": 2000})
            height, width = opened["size"]
            black = np.zeros((height, width, 3), np.uint8).tobytes()
            for k in range(3):
                frame = FrameMessage(RAW, k, black, None, False, height, width)
                assert await talk.frame(frame) is None
            session = await add_source(server.sessions, str(clip), Spec(fps=5), name="alive")
            while session.recent.last < 2 or not session.saved:
                await asyncio.sleep(0.01)
            assert time.monotonic() - start < 4.5  # a dead camera takes 5 s to give up at first
            assert not any(task.done() for task in adding)
            talk.end()
            start = time.monotonic()
            for task in adding:
                task.cancel()
            assert await server.drain()
            assert session.saved
        assert time.monotonic() - start < settings.patience + 5
        await asyncio.gather(*adding, return_exceptions=True)

    start = time.monotonic()
    run(main())  # asyncio.run waits for the loop's own pool
    assert time.monotonic() - start < 40
    hole.close()

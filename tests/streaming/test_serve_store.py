"""Snapshots: what is on disk, who may write it, and sessions that move between servers."""

import asyncio
import os
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from streamzoo.streaming import Step
from streamzoo.streaming.serve import Limits, ServeError
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.snapshots import fingerprint
from streamzoo.streaming.serve.spec import token_key
from streamzoo.streaming.serve.store import StaleWriter, Store

from .serving import STEP, alone, engine, logits, run
from .stub import CARD, Stub, params, video

ARRAYS = {
    "['h']": np.arange(6, dtype=np.float32).reshape(1, 6),
    "['b']": np.asarray([[1.5, -2]], ml_dtypes.bfloat16),
    "['n']": np.asarray([7], np.int32),
    "['m']": np.asarray([[True, False]]),
}


def same(found, plain):
    assert found is not None and found[0] == plain
    assert found[1].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[1][name].dtype == array.dtype
        np.testing.assert_array_equal(found[1][name], array)


def test_a_state_there_and_back_and_the_one_before_a_damaged_one(tmp_path):
    store = Store(tmp_path / "store")
    assert "k" not in store
    lease = store.claim("k")
    assert lease.load() is None and lease.epoch == 1
    for number in range(5):
        lease.save({"number": number}, ARRAYS)
    same(lease.load(), {"number": 4})
    files = sorted(p.name for p in (tmp_path / "store" / "k").iterdir())
    assert files == [
        "carry-00000001-00000003.safetensors", "carry-00000001-00000004.safetensors",
        "epoch-00000001",
    ]  # fmt: skip
    newest = tmp_path / "store" / "k" / files[1]
    newest.write_bytes(newest.read_bytes()[:-3])
    same(store.claim("k").load(), {"number": 3})
    os.utime(newest, (1, 1))
    assert store.sweep(3600) == 0  # another file is young
    for path in (tmp_path / "store" / "k").iterdir():
        os.utime(path, (1, 1))
    assert store.sweep(3600) == 1 and "k" not in store
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        Store(tmp_path / "file" / "x")


def test_an_old_epoch_is_refused_even_in_the_middle_of_a_write(tmp_path, monkeypatch):
    store = Store(tmp_path)
    old = store.claim("k")
    old.save({"by": "old"}, ARRAYS)
    new = store.claim("k")
    same(new.load(), {"by": "old"})
    with pytest.raises(StaleWriter, match="epoch 2 has claimed"):
        old.save({"by": "old again"}, ARRAYS)
    # The claim comes after the last check and before the rename: too late to refuse, and harmless.
    replace, third = os.replace, []

    def late(source, target):
        third.append(store.claim("k"))
        return replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    new.save({"by": "late"}, ARRAYS)
    monkeypatch.undo()
    same(third[0].load(), {"by": "old"})
    same(store.claim("k").load(), {"by": "old"})  # nobody ever reads it
    third[0].drop()  # not its own any more
    assert "k" in store
    store.claim("k").drop()
    assert "k" not in store
    with pytest.raises(FileNotFoundError):
        new.save({}, ARRAYS)


def test_a_state_of_another_epoch_is_never_read(tmp_path):
    """A writer that was late lands its state after the session was claimed, between its last check
    and the move of its file; and one that was overtaken does not read what the new owner wrote."""
    store, arrays = Store(tmp_path), {"x": np.arange(3.0)}
    old = store.claim("a")
    old.save({"frame": 1}, arrays)
    (early,) = tmp_path.glob("a/carry-*")
    kept = early.read_bytes()
    new = store.claim("a")
    assert new.load()[0] == {"frame": 1}
    for path in tmp_path.glob("a/carry-*"):
        path.unlink()
    early.write_bytes(kept)  # the late move
    assert new.load() is None
    new.save({"frame": 2}, arrays)
    assert new.load()[0] == {"frame": 2}
    early.write_bytes(kept)
    assert old.load()[0] == {"frame": 1}  # its own, and not the newest of the folder


def test_of_many_that_claim_at_once_each_gets_its_own_epoch(tmp_path):
    store, epochs = Store(tmp_path), []
    threads = [
        threading.Thread(target=lambda: epochs.append(store.claim("k").epoch)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(1, 13))


def test_the_fingerprint_tells_weights_apart():
    other = params()
    other["h"] = other["h"].at[0, 0].add(1e-6)
    assert fingerprint(STEP) == fingerprint(Step(Stub(), params(), CARD))
    assert fingerprint(STEP) != fingerprint(Step(Stub(), other, CARD))


def settings(folder, **kwargs):
    return Settings(port=0, store=folder, every=0.05, **kwargs)


async def send(client, frames, pace=0.0):
    for frame in frames:
        await client.send(frame)
        await asyncio.sleep(pace)


def checked(results, frames):
    assert [r.index for r in results] == list(range(len(frames)))
    np.testing.assert_array_equal(logits([r.output for r in results]), logits(alone(frames)))


@pytest.mark.parametrize("drained", [True, False])
def test_a_session_goes_on_in_another_server(tmp_path, drained):
    """Drained: by SIGTERM's path. Else the first server is cut off and never says a word."""
    frames = video(5, 60)

    async def main():
        async with engine() as e1, engine() as e2, Server(e2, settings(tmp_path)) as second:
            first = await Server(e1, settings(tmp_path)).__aenter__()
            client = Client(first.address, policy="lossless", budget_ms=60000)
            async with client:
                sending = asyncio.create_task(send(client, frames, 0.005))
                results = [await anext(client) for _ in range(20)]
                client._url = second.address.replace("http", "ws") + "/ws"  # the balancer's job
                session: Any = None
                if drained:
                    assert await first.drain()
                    assert await first.drain()  # again without harm
                else:
                    session = first.sessions.resume(client.token)
                    while session.saved < 5:
                        await asyncio.sleep(0.01)
                    client._line.transport.abort()
                results += [await anext(client) for _ in range(40)]
                await sending
                assert client.reconnects == 1 and client.missed == client.lost == 0
                checked(results, frames)
                if not drained:  # the old owner finds out when it saves the next time
                    session.skip(session.next + 1)
                    while session.ended is None:
                        await asyncio.sleep(0.01)
                    assert session.ended == "moved" and not first.sessions.by_name
                token = client.token
            await asyncio.sleep(0.1)
            assert token_key(token) not in Store(tmp_path)  # closed: forgotten
            await first.__aexit__()

    run(main())


def test_what_a_store_does_not_give_back(tmp_path):
    async def main():
        limits = Limits(ttl=0.4)
        async with engine() as e, Server(e, settings(tmp_path, limits=limits)) as server:
            client = Client(server.address, policy="lossless", budget_ms=60000)
            async with client:
                await send(client, video(0, 3))
                token = client.token
                session = server.sessions.resume(token)
                while session.saved < 3:
                    await asyncio.sleep(0.01)
                await server.drain()
                await client.vanish()
        other = params()
        other["h"] = other["h"] + 1
        async with engine(step=Step(Stub(), other, CARD)) as e:
            async with Server(e, settings(tmp_path, limits=limits)) as server:
                for wrong in (token, "x", "source:x"):
                    with pytest.raises(ServeError, match="no session has this token"):
                        await server.sessions.find(wrong)
        await asyncio.sleep(0.5)
        async with engine() as e, Server(e, settings(tmp_path, limits=limits)) as server:
            with pytest.raises(ServeError, match="no session has this token"):
                await server.sessions.find(token)

    run(main())


def test_a_store_that_fails_stops_nothing_and_is_used_again(tmp_path):
    folder = tmp_path / "store"

    async def main():
        async with engine() as e, Server(e, settings(folder)) as server:
            async with Client(server.address, policy="lossless", budget_ms=60000) as client:
                await send(client, video(0, 2))
                session = server.sessions.resume(client.token)
                while session.saved < 2:
                    await asyncio.sleep(0.01)
                key = folder / session.key
                os.rename(folder, tmp_path / "gone")
                folder.touch()  # a file where the folder was
                failures = server.snapshots.failures
                await send(client, video(1, 3))
                assert [(await anext(client)).index for _ in range(5)] == [0, 1, 2, 3, 4]
                while server.snapshots.failures <= failures:
                    await asyncio.sleep(0.01)
                assert session.saved == 2
                folder.unlink()
                while session.saved < 5:
                    await asyncio.sleep(0.01)
                assert key.is_dir()

    run(main())

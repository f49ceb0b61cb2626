"""The cluster on a local Ray: placement, stickiness, kill -9 of a replica, scaling both ways."""

import asyncio
import os
import signal

import numpy as np
import pytest

import streamzoo
from streamzoo.streaming import Session, Step
from streamzoo.streaming.cluster.client import ClusterClient

from . import tiny
from .clustered import Rig
from .serving import run
from .stub import video

pytest.importorskip("ray", reason='needs pip install "streamzoo[cluster]"')
pytestmark = pytest.mark.slow
FRAMES = video(9, 60, tiny.SIZE)
SLOW = {"policy": "lossless", "budget_ms": 60000, "patience": 120}


def expected():
    """Class probabilities of a run that nothing interrupts."""
    model, params = streamzoo.load(tiny.NAME)
    with Session(Step(model, params, tiny.CARD)) as session:
        return [dict(zip(tiny.CLASSES, session.push(frame).scores())) for frame in FRAMES]


async def send(client):
    for frame in FRAMES:
        await client.send(frame)
        await asyncio.sleep(0.03)
    await client.finish()


def check(client, results):
    """Every frame answered once, as if nothing had happened, and nothing unaccounted for."""
    assert [r.index for r in results] == list(range(len(FRAMES)))
    for result, want in zip(results, expected(), strict=True):
        for name in tiny.CLASSES:
            np.testing.assert_allclose(result.classes[name], want[name], atol=1e-5)
    assert client.missed == client.lost == client.restarts == 0
    assert client.end["reason"] == "finished"


async def interrupted(rig, fault):
    """A client whose replica suffers ``fault(state, its name)`` after 25 answers."""
    async with ClusterClient(rig.address, **SLOW) as client:
        sending = asyncio.create_task(send(client))
        results = [await anext(client) for _ in range(25)]
        state = await rig.state()
        first = client.places[-1]["endpoint"]
        name = next(n for n, r in state["replicas"].items() if r["endpoint"] == first)
        await fault(state, name)
        results += [result async for result in client]
        await sending
        check(client, results)
        assert client.reconnects == 1
        assert client.places[-1]["endpoint"] != first
        assert client.places[-1]["epoch"] > client.places[0]["epoch"]


def test_a_cluster_places_by_slots_sticks_and_survives_a_kill(home, tmp_path):
    async def main():
        async with Rig(home, tmp_path / "store", tmp_path / "log") as rig:
            clients = [ClusterClient(rig.address, patience=5) for _ in range(4)]
            for client in clients:
                await client.__aenter__()
            state = await rig.state()
            assert [r["free"] for r in state["replicas"].values()] == [0, 0]
            where = [client.places[-1]["endpoint"] for client in clients]
            assert sorted(map(where.count, set(where))) == [2, 2]

            with pytest.raises(Exception, match="without a free slot"):
                async with ClusterClient(rig.address, patience=1):
                    pass

            for _ in range(3):  # the same client comes back to the same place
                for client, endpoint in zip(clients, where):
                    place = await client._address()
                    assert place == endpoint.replace("http", "ws") + "/ws"
            for client in clients:
                await client.close()
            await rig.until(lambda s: all(r["free"] == 2 for r in s["replicas"].values()), 20)

            async def kill(state, name):
                os.kill(state["replicas"][name]["pid"], signal.SIGKILL)

            await interrupted(rig, kill)

    run(main(), 280)


def test_a_cluster_grows_with_its_sessions_and_shrinks_by_draining(home, tmp_path):
    async def main():
        log = tmp_path / "log"
        words = {"replicas": (1, 2), "down": 3.0, "up": 1.0}
        async with Rig(home, tmp_path / "store", log, **words) as rig:
            clients = [ClusterClient(rig.address, patience=90) for _ in range(2)]
            for client in clients:
                await client.__aenter__()
            await rig.until(lambda s: len(s["replicas"]) == 2, 90)

            async def shrink(state, name):
                del state, name
                await asyncio.gather(*(client.close() for client in clients))

            async with ClusterClient(rig.address, **SLOW) as client:
                # It is on the new replica, which has the free slots, and which Serve stops first.
                del client
            await interrupted_by_scaling(rig, shrink)

    async def interrupted_by_scaling(rig, shrink):
        async with ClusterClient(rig.address, **SLOW) as client:
            first = client.places[-1]["endpoint"]
            for frame in FRAMES[:25]:
                await client.send(frame)
            results = [await anext(client) for _ in range(25)]
            await shrink(None, None)
            await rig.until(
                lambda s: (
                    len(s["replicas"]) == 1
                    and first not in [r["endpoint"] for r in s["replicas"].values()]
                ),
                90,
            )
            for frame in FRAMES[25:]:
                await client.send(frame)
            await client.finish()
            results += [result async for result in client]
            check(client, results)
            assert client.places[-1]["endpoint"] != first

    run(main(), 280)

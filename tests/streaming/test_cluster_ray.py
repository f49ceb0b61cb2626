"""The cluster on a local Ray: placement, stickiness, kill -9 of its parts, scaling both ways."""

import asyncio
import os
import signal
import urllib.error
import urllib.request

import numpy as np
import pytest

import streamzoo
from streamzoo.streaming import Session, Step
from streamzoo.streaming.cluster.client import ClusterClient
from streamzoo.streaming.serve.client import ClientError

from . import tiny
from .clustered import Rig
from .serving import run
from .stub import video

pytest.importorskip("ray", reason="needs the extra cluster")
pytestmark = pytest.mark.slow
FRAMES = video(9, 60, tiny.SIZE)
SLOW = {"policy": "lossless", "budget_ms": 60000, "patience": 120}


def expected():
    """Class probabilities of a run that nothing interrupts."""
    model, params = streamzoo.load(tiny.NAME)
    with Session(Step(model, params, tiny.CARD)) as session:
        return [
            dict(zip(tiny.CLASSES, tiny.scored(session.push(frame)), strict=False))
            for frame in FRAMES
        ]


async def send(client, frames):
    for frame in frames:
        await client.send(frame)
        await asyncio.sleep(0.03)


def check(client, results):
    """Every frame answered once, as if nothing had happened, and nothing unaccounted for."""
    assert [r.index for r in results] == list(range(len(FRAMES)))
    for result, want in zip(results, expected(), strict=True):
        for name in tiny.CLASSES:
            np.testing.assert_allclose(result.classes[name], want[name], atol=1e-5)
    assert client.missed == client.lost == client.restarts == 0
    assert client.end["reason"] == "finished"


def at(state, client):
    """The replica that a client was sent to last."""
    where = client.places[-1]["endpoint"]
    return next(n for n, r in state["replicas"].items() if r["endpoint"] == where)


async def grow(rig):
    """Two clients of the one replica that there is, and two for whom there must be another."""
    clients = [ClusterClient(rig.address, **SLOW) for _ in range(4)]
    for client in clients:
        await client.__aenter__()
    state = await rig.state()
    assert [r["free"] for r in state["replicas"].values()] == [0, 0]
    first, same, second, other = [at(state, client) for client in clients]
    assert first == same != second == other
    return clients


async def full_and_sticky(rig, clients):
    with pytest.raises(ClientError, match="without a free slot"):
        async with ClusterClient(rig.address, patience=1):
            pass
    where = [client.places[-1]["endpoint"] for client in clients]
    for client in clients:
        await client._line.close()
    await rig.until(lambda s: all(c.reconnects == 1 for c in clients), 20)
    assert where == [client.places[-1]["endpoint"] for client in clients]


async def strangers_stay_out(rig):
    """What the ingress lets in is what its settings say, through Serve's proxy too."""

    def ask(path, data=None, **headers):
        request = urllib.request.Request(rig.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    asked = [
        ("/v1/cluster", None, {}), ("/v1/cluster", None, {"Host": "evil.example"}),
        ("/v1/cluster", None, {"Origin": "https://evil.example"}),
        ("/v1/sessions", b"x" * 10**5, {"Content-Type": "application/json"}),
    ]  # fmt: skip
    found = [await asyncio.to_thread(ask, path, data, **headers) for path, data, headers in asked]
    assert found == [200, 403, 403, 413]


async def the_directory_is_killed(rig, clients):
    """The next one learns from the replicas who has what; no stream notices."""
    before = await rig.state()
    os.kill(before["pid"], signal.SIGKILL)
    owners = lambda state: {sid: s["replica"] for sid, s in state["sessions"].items()}
    after, _ = await rig.until(
        lambda s: s["generation"] > before["generation"] and owners(s) == owners(before), 60
    )
    for sid, session in after["sessions"].items():
        assert session["epoch"] == before["sessions"][sid]["epoch"]
    assert [c.reconnects for c in clients] == [1] * len(clients)


async def one_of_two_is_drained(rig, clients):
    """The newer one goes, with a session in the middle of its stream."""
    await clients[1].close()
    await clients[3].close()
    stays, goes = clients[0], clients[2]
    for client in (stays, goes):
        await send(client, FRAMES[:25])
    results = {c: [await anext(c) for _ in range(25)] for c in (stays, goes)}
    await rig.until(lambda s: len(s["replicas"]) == 1, 60)
    for client in (stays, goes):
        await send(client, FRAMES[25:])
        await client.finish()
        check(client, results[client] + [result async for result in client])
    assert [c.reconnects for c in (stays, goes)] == [1, 2]
    assert stays.places[-1]["endpoint"] == goes.places[-1]["endpoint"]


async def one_of_two_is_killed(rig):
    """With frames on their way to it."""
    fillers = [ClusterClient(rig.address, **SLOW) for _ in range(2)]
    for client in fillers:
        await client.__aenter__()
    async with ClusterClient(rig.address, **SLOW) as client:  # another replica comes for it
        await fillers[0].close()
        sending = asyncio.create_task(send(client, FRAMES))
        results = [await anext(client) for _ in range(25)]
        state = await rig.state()
        os.kill(state["replicas"][at(state, client)]["pid"], signal.SIGKILL)
        await sending
        await client.finish()
        check(client, results + [result async for result in client])
        first, last = client.places[0], client.places[-1]
        assert client.reconnects == 1 and last["epoch"] > first["epoch"]
        assert last["endpoint"] == fillers[1].places[-1]["endpoint"] != first["endpoint"]
    await fillers[1].close()


def test_a_cluster_grows_sticks_shrinks_and_loses_parts(home, tmp_path):
    words = {"replicas": (1, 2), "up": 0.5, "down": 4.0, "scaling": {"high": 1.0, "low": 1.0}}

    async def main():
        async with Rig(home, tmp_path / "store", tmp_path / "log", **words) as rig:
            await strangers_stay_out(rig)
            clients = await grow(rig)
            await full_and_sticky(rig, clients)
            await the_directory_is_killed(rig, clients)
            await one_of_two_is_drained(rig, clients)
            await one_of_two_is_killed(rig)

    run(main(), 400)

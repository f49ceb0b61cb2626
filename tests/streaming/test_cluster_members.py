"""Servers, their heartbeats, the directory and the client, in one process and without Ray."""

import asyncio
import contextlib
import shutil

import numpy as np
import pytest

from streamzoo.streaming.cluster import Directory
from streamzoo.streaming.cluster.client import ClusterClient
from streamzoo.streaming.cluster.placing import direct
from streamzoo.streaming.cluster.replica import Member
from streamzoo.streaming.serve import ServeError
from streamzoo.streaming.serve.server import Server, Settings

from .serving import alone, engine, logits, run
from .stub import video

FRAMES = video(11, 40)


class Local:
    """Replicas of the stub with a directory; ``kill`` ends one as SIGKILL would."""

    def __init__(self, store, replicas=2, slots=2):
        self.directory = Directory(lease=0.6)
        self.store, self.count, self.slots = store, replicas, slots
        self.servers, self.members = {}, {}

    async def __aenter__(self):
        self.stack = contextlib.AsyncExitStack()
        for i in range(self.count):
            await self.add(f"r{i}")
        return self

    async def add(self, name):
        work = await self.stack.enter_async_context(engine(slots=self.slots))
        settings = Settings(port=0, store=self.store, every=0.02)
        server = await self.stack.enter_async_context(Server(work, settings))

        async def say(*args):
            return self.directory.heartbeat(*args)

        self.servers[name], self.members[name] = server, Member(name, server, say, 0.05)
        while self.directory.endpoint(name) is None:
            await asyncio.sleep(0.01)

    async def silence(self, name):
        """No heartbeat of it arrives any more; it does not know."""
        await self.members[name].stop()

    async def __aexit__(self, *_):
        for member in self.members.values():
            await member.stop()
        await self.stack.aclose()

    def client(self, **options):
        return Follower(self.directory, policy="lossless", budget_ms=60000, **options)

    def of(self, client):
        """The replica that a client was sent to last."""
        return self.directory.at(client.places[-1]["endpoint"])


class Follower(ClusterClient):
    """Asks the directory without an ingress between."""

    def __init__(self, directory, **options):
        super().__init__("http://here:1", **options)
        self._directory, self._loop = directory, asyncio.get_event_loop()

    def _ask(self, body):
        try:
            asked = direct(self._directory, body)
            return asyncio.run_coroutine_threadsafe(asked, self._loop).result(5)
        except ServeError as error:
            raise OSError(str(error)) from None


async def answers(client, fault, mended=None, after=15):
    """The answers for FRAMES: ``fault()`` after the first ones, ``mended()`` before the end."""
    results = []
    for frames, then in ((FRAMES[:after], fault), (FRAMES[after:], mended)):
        for frame in frames:
            await client.send(frame)
        results += [await anext(client) for _ in frames]
        if then is not None:
            await then()
    await client.finish()
    return results + [result async for result in client]


def check(client, results):
    """As if nothing had happened, bit for bit: the slots are as many everywhere."""
    assert [r.index for r in results] == list(range(len(FRAMES)))
    want = logits(alone(FRAMES, batch=2))
    np.testing.assert_array_equal(logits([r.output for r in results]), want)
    assert client.missed == client.lost == client.restarts == 0


def test_open_with_a_token_that_is_known_goes_on_and_with_a_new_one_begins(tmp_path):
    async def main():
        async with Local(tmp_path) as local:
            async with local.client() as one:
                assert not one.opened["resumed"] and one.opened["token"] == one._token
                name = local.of(one)
                again = await direct(local.directory, {"token": one._token})
                assert again["endpoint"] == one.places[0]["endpoint"] and not again["moved"]
                async with local.client() as two:
                    assert local.of(two) != name, "the other replica has more free slots"
            for body in ({"token": "short"}, {"group": 3}, {"failed": "x" * 10**7}, {"token": {}}):
                with pytest.raises(ServeError) as caught:
                    await direct(local.directory, body)
                assert caught.value.code == "bad_request" and len(str(caught.value)) < 100

    run(main())


def test_a_drained_replica_sends_its_clients_on_with_their_state(tmp_path):
    async def main():
        async with Local(tmp_path) as local, local.client() as client:
            first = local.of(client)

            async def drain():
                local.directory.drain(first)
                assert await local.servers[first].drain()
                await local.silence(first)
                local.directory.leave(first)

            check(client, await answers(client, drain))
            assert local.of(client) != first and client.reconnects == 1

    run(main())


def test_a_replica_that_is_gone_is_not_asked_twice(tmp_path):
    async def main():
        async with Local(tmp_path) as local, local.client() as client:
            first = local.of(client)

            async def die():
                await asyncio.sleep(0.1)  # a snapshot of what has been answered
                await local.silence(first)
                server = local.servers[first]
                server.snapshots.let_go()
                server._web.should_exit = server._web.force_exit = True
                await server._running

            check(client, await answers(client, die))
            assert local.directory.endpoint(first) is None, "the lease had not run out; a probe did"
            assert local.of(client) != first
            assert client.places[-1]["epoch"] > client.places[0]["epoch"]

    run(main())


def test_a_replica_that_was_only_silent_gives_its_session_up(tmp_path):
    """Split brain: both have the session until the old one hears of it; only one writes."""

    async def main():
        async with Local(tmp_path) as local, local.client() as client:
            first = local.of(client)
            server, member = local.servers[first], local.members[first]
            old = next(iter(server.sessions.by_name.values()))

            async def stall():
                await asyncio.sleep(0.1)
                await local.silence(first)
                while local.directory.endpoint(first) is not None:
                    await asyncio.sleep(0.05)
                await client._line.close()  # it asks anew, and is sent elsewhere

            async def hear():  # while the other has it: once it is over, nobody's claim is older
                if old.ended is None:  # it may have heard from the store before
                    await member.tell()
                assert old.ended == "moved" and not server.sessions.by_name

            check(client, await answers(client, stall, hear))
            assert local.of(client) != first

    run(main())


def test_a_session_that_is_lost_stays_in_the_store_for_its_new_owner(tmp_path):
    async def main():
        async with Local(tmp_path) as local, local.client() as client:
            first = local.of(client)
            for frame in FRAMES[:5]:
                await client.send(frame)
            await anext(client)
            await asyncio.sleep(0.1)
            key = next(iter(local.servers[first].sessions.by_name.values())).key
            await local.silence(first)
            local.directory.leave(first)
            local.directory.place(key, known=True)  # and nobody has claimed it in the store yet
            await local.members[first].tell()
            assert not local.servers[first].sessions.by_name
            assert (tmp_path / key).is_dir() and list((tmp_path / key).glob("carry-*"))

    run(main())


def test_a_group_follows_its_first_stream(tmp_path):
    async def main():
        async with Local(tmp_path, slots=3) as local, contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            clients = [await enter(local.client(group="gate")) for _ in range(3)]
            assert len({local.of(client) for client in clients}) == 1

    run(main())


def test_a_full_cluster_says_so_and_takes_the_client_when_there_is_room(tmp_path):
    async def main():
        async with Local(tmp_path, replicas=1, slots=1) as local, local.client() as first:
            with pytest.raises(Exception, match="1 replicas are without a free slot"):
                async with local.client(patience=0.3):
                    pass
            assert local.directory.report()["waiting"] == 1
            late = asyncio.create_task(local.client().__aenter__())
            await asyncio.sleep(0.2)
            await first.close()
            await (await late).close()

    run(main())


def test_a_replica_that_fails_once_is_tried_again(tmp_path):
    """The only one there is: avoiding it for good would keep the client out."""

    async def main():
        async with Local(tmp_path, replicas=1) as local:
            client = local.client()
            client._failed = local.servers["r0"].address
            async with client:
                assert client.places[-1]["endpoint"] == local.servers["r0"].address

    run(main())


def test_a_state_that_is_lost_is_begun_anew_and_said(tmp_path):
    """With the frames that the client still has; those that it has not count as lost."""
    gone = []

    async def main():
        async with Local(tmp_path) as local, local.client() as client:
            first = local.of(client)

            async def lose_everything():
                await asyncio.sleep(0.1)
                server = local.servers[first]
                session = next(iter(server.sessions.by_name.values()))
                await local.silence(first)
                await server.snapshots.close()
                shutil.rmtree(tmp_path / session.key)
                local.directory.leave(first)
                gone.append(client._frames[0].index if client._frames else client._count)
                await client._line.close()

            results = await answers(client, lose_everything)
            assert [r.index for r in results] == list(range(len(FRAMES)))
            assert client.restarts == 1 and client.lost == gone[0]
            for r in results[15:]:
                assert r.output["n"] == r.index + 1 - client.lost

    run(main())

"""One engine replica: a whole server on a port of its own, and its heartbeat to the directory.

Frames go straight from the client to that port: no proxy is between them, and a replica that
comes or goes re-routes nobody but the sessions that it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...layers.streaming import Params
from ...zoo.registry import Card
from ..engine import Answer, Engine
from ..serve.access import is_loopback
from ..serve.live_session import LiveSession
from ..serve.server import Server, Settings
from ..step import Step
from .messages import Beat, Held, Load

log = logging.getLogger("streamzoo.serve")
SECONDS = 10.0  # of answers that the lateness is of
Say = Callable[[str, str, Load, Mapping[str, Held]], Awaitable[Beat]]


class Lateness:
    """latency / budget of the answers of the last seconds."""

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._clock = seconds, clock
        self._seen: deque[tuple[float, float]] = deque(maxlen=4096)

    def add(self, session: LiveSession, answer: Answer) -> None:
        if answer.result is not None:
            self._seen.append((self._clock(), answer.latency / session.spec.budget))

    def p99(self) -> float:
        since = self._clock() - self._seconds
        while self._seen and self._seen[0][0] < since:
            self._seen.popleft()
        ratios = sorted(ratio for _, ratio in self._seen)
        return ratios[int(0.99 * (len(ratios) - 1))] if ratios else 0.0


class Member:
    """Keeps a server's sessions in step with the directory.

    Args:
      say: :meth:`Directory.heartbeat`, wherever it is.
      beat: seconds between heartbeats; a new session is told at once.

    While the directory cannot be reached the sessions go on: their clients are here, and that
    nobody else writes them is the store's doing.
    """

    def __init__(self, name: str, server: Server, say: Say, beat: float = 0.5):
        self.name, self._server, self._say, self._beat = name, server, say, beat
        self._leases: dict[LiveSession, Held] = {}
        self._lateness = Lateness()
        self.waiting = 0
        server.sessions.listeners.append(self._lateness.add)
        server.sessions.opened.append(lambda _session: self._news.set())
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="heartbeat")

    def held(self) -> list[LiveSession]:
        """Sessions that are this replica's, those ended whose results wait too."""
        live = self._server.sessions.by_name.values()
        return [s for s in live if s.ended in (None, "finished")]

    def load(self) -> Load:
        held, report = self.held(), self._server.engine.report()
        idle = sum(s.parked is not None or s.ended is not None for s in held)
        queued = report["total"]["waiting"]
        return Load(self._server.engine.slots, idle, queued, self._lateness.p99())

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(10 * self._beat):
                    await self.tell()
            except Exception as error:  # also Ray's own; the directory may be starting anew
                log.warning("%s: the directory does not answer: %r", self.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat):
                    await self._news.wait()
            self._news.clear()

    async def tell(self) -> None:
        """One heartbeat."""
        told = {session.key: session for session in self.held()}
        held = {key: self._leases.get(session, Held()) for key, session in told.items()}
        beat = await self._say(self.name, self._server.address, self.load(), held)
        self.waiting = beat.waiting
        for key in beat.lost:
            log.warning("session %s is served elsewhere", told[key].name)
            self._server.abandon(told[key])
        self._leases = {told[key]: lease for key, lease in beat.leases.items()}

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class EngineReplica:
    """What Ray Serve runs, one process each; see :func:`.launch.application`.

    Args:
      load: -> (model, params, card).
      settings: of the server; port 0.
      front: (deployment, application) that has the directory.
    """

    async def __init__(
        self,
        load: Callable[[], tuple[Any, Params, Card]],
        settings: Settings,
        slots: int,
        front: tuple[str, str],
        beat: float,
    ):
        import ray
        from ray import serve

        logging.getLogger("streamzoo.serve").setLevel(logging.INFO)
        if not is_loopback(settings.host):  # reached from other machines, at an address of this one
            settings = dataclasses.replace(settings, host=ray.util.get_node_ip_address())
        self.name = serve.get_replica_context().replica_id.unique_id
        model, params, card = await asyncio.to_thread(load)
        self._handle = serve.get_deployment_handle(*front)
        self._engine = Engine(Step(model, params, card), slots=slots)
        await self._engine.start()
        self._server = Server(self._engine, settings)
        await self._server.__aenter__()
        self._member = Member(self.name, self._server, self._beat, beat)
        log.info("replica %s (process %d) at %s", self.name, os.getpid(), self._server.address)

    async def _beat(self, *args: Any) -> Beat:
        return await self._handle.beat.remote(*args, os.getpid())

    def check_health(self) -> None:
        """For Serve: a replica whose engine has failed is replaced."""
        if self._engine.failure is not None:
            raise RuntimeError(f"the engine failed: {self._engine.failure!r}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For :class:`.launch.Policy`."""
        load = self._member.load()
        used = len(self._member.held()) - load.idle
        return {**dataclasses.asdict(load), "used": used, "waiting": self._member.waiting}

    async def __del__(self) -> None:
        """Serve calls and awaits it when the replica is to go: answers, saves, tells."""
        if not hasattr(self, "_member"):
            return
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._handle.drain.remote(self.name), 2)
        whole = await self._server.drain()
        log.info("replica %s drained%s", self.name, "" if whole else ", not in time")
        await self._member.stop()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._handle.leave.remote(self.name), 2)
        await self._server.__aexit__()
        await self._engine.close()

"""The server's life: bind, compile, serve, and on SIGTERM drain and leave in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from ...layers.streaming import Json
from ...zoo.ranges import Checked, Port, Positive
from ..engine import Engine
from .access import Tokens, is_loopback
from .app import make_app
from .deadlines import plain, timed
from .door import Door
from .inputs import add_all
from .limits import Limits
from .live_session import LiveSession
from .sessions import EVENTS, Sessions
from .snapshots import Snapshots
from .sounds import Sounds
from .spec import Spec
from .store import Store
from .studio import Studio
from .talks import Talks

log = logging.getLogger("streamzoo.serve")
Hears = tuple[str, Callable[[], Any]]
FAREWELL = 2.0  # seconds that the drain waits for sources to end


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """How a server listens and what it keeps.

    Attributes:
      host, port: port 0 takes a free one.
      grpc_port: of the gRPC service; None: there is none.
      tokens: needed unless ``host`` is of this machine only; ``insecure`` waives that.
      allow_hosts, allow_origins: names in Host, and sites whose pages may ask, besides this
        server's own; see :class:`.door.Door`.
      trusted_proxies: addresses whose X-Forwarded-For and -Proto are believed; from all others,
        they are not looked at.
      certificate, key: PEM files, for TLS.
      store: folder of the snapshots; None keeps none.
      every: seconds between snapshots of a session.
      patience: seconds that a drain may take.
      reader: keywords of `open_source`: how the sources are read.
      policy: of the sources: "events" never drops a frame that :class:`SceneChange` marks;
        "latest" may, and when most are dropped it decodes key frames only.
    """

    host: str = "127.0.0.1"
    port: Port = 8765
    grpc_port: Port | None = None
    tokens: Tokens = dataclasses.field(default_factory=Tokens)
    insecure: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)
    store: Path | None = None
    every: Positive = 1.0
    patience: Positive = 10.0
    reader: Json = dataclasses.field(default_factory=dict)
    policy: str = EVENTS

    def __post_init__(self):
        super().__post_init__()
        if not is_loopback(self.host) and not self.tokens and not self.insecure:
            raise ValueError(
                f"{self.host} is reached from other machines: give --token-file (and --certificate "
                "and --key), or --insecure to let everybody in"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both --certificate and --key")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise ValueError(f"{path}: no such file")
        _ = self.door  # fails early

    @property
    def door(self) -> Door:
        """Raises ValueError: a host or an origin is none."""
        return Door.of(self.host, self.allow_hosts, self.allow_origins)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ValueError: taken, or no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except (OSError, OverflowError) as error:
        sock.close()
        raise ValueError(
            f"{host}:{port} cannot be bound ({error}); another server may hold it: give another "
            "--port"
        ) from None
    return sock


class Quiet(uvicorn.Server):
    """uvicorn without its own signal handlers: a signal drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One engine's sessions on the network.

    async with Server(engine, Settings(port=0)) as server:
        print(server.address)
        await server.wait()                        # until a signal, or stop()
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings | None = None,
        hears: Hears | None = None,
        studio: Studio | None = None,
        talks: Callable[[Sessions], Talks] | None = None,
    ):
        """hears: a recogniser's name and what begins an utterance of it; None: no sound. studio:
        what makes video for clients, running; None: nothing does. talks: makes the conversations
        about the streams; None: there are none."""
        self._hears, self.sounds, self.studio = hears, None, studio
        self.settings = settings = settings or Settings()
        self.engine = engine
        self.sessions = Sessions(engine, self.settings.limits)
        self.sessions.reader, self.sessions.policy = dict(settings.reader), settings.policy
        self.talks = None if talks is None else talks(self.sessions)
        self._socket = bind(self.settings.host, self.settings.port)
        self._stop = asyncio.Event()
        self.snapshots: Snapshots | None = None
        self.grpc: Any = None

    @property
    def address(self) -> str:
        """http(s)://host:port."""
        host, port = self._socket.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        return f"http{'s' * (self.settings.certificate is not None)}://{host}:{port}"

    async def __aenter__(self) -> Server:
        settings = self.settings
        store = None if settings.store is None else Store(settings.store)
        if store is not None:
            self.snapshots = Snapshots(self.sessions, store, settings.every)
        if self._hears is not None:
            name, begin = self._hears
            self.sounds = Sounds(begin, name, settings.limits, store, settings.every)
        app = make_app(
            self.sessions, settings.tokens, settings.door, self.sounds, self.studio, self.talks
        )
        if settings.grpc_port is not None:
            from .grpc_service import GrpcServer  # the one that needs grpc

            self.grpc = GrpcServer(
                self.sessions, f"{settings.host}:{settings.grpc_port}", settings.tokens,
                app.state.metrics.observe, settings.certificate, settings.key, settings.door,
                self.sounds,
            )  # fmt: skip
            await self.grpc.start()
        config = uvicorn.Config(
            app, http=timed(settings.limits.handshake), ws="websockets-sansio",
            ws_max_size=settings.limits.message,
            # a client that reads nothing for 10 s is slow and not gone
            ws_ping_interval=10, ws_ping_timeout=20,
            limit_concurrency=settings.limits.connections, timeout_graceful_shutdown=3,
            log_config=None, access_log=False, lifespan="off",
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            ssl_certfile=settings.certificate, ssl_keyfile=settings.key and str(settings.key),
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(plain)
        self._web = Quiet(config)
        self._running = asyncio.create_task(self._web.serve(sockets=[self._socket]))
        while not self._web.started and not self._running.done():
            await asyncio.sleep(0.01)
        if self._running.done():
            await self._running
            raise RuntimeError("the web server has not started")
        return self

    def stop(self, *_: Any) -> None:
        """Lets :meth:`wait` go on."""
        self._stop.set()

    def again(self) -> None:
        """A later :meth:`stop` counts anew."""
        self._stop.clear()

    async def stopped(self) -> None:
        """Until :meth:`stop`."""
        await self._stop.wait()

    async def wait(self) -> None:
        """Until :meth:`stop`, or until the engine has failed."""
        while not self._stop.is_set() and self.engine.failure is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.5)

    async def drain(self) -> bool:
        """Stops the intake, answers what is in flight, saves every session, tells the clients.

        Returns whether all of that was done in time.
        """
        sessions, end = self.sessions, time.monotonic() + self.settings.patience
        sessions.draining = True
        hearing = None
        if self.sounds is not None:
            hearing = asyncio.create_task(self.sounds.drain())
        if self.grpc is not None:
            await self.grpc.serving(False)
        live = [s for s in sessions.by_name.values() if not s.ended]
        fed, pushed = [s for s in live if s.feed], [s for s in live if not s.feed]
        whole = await self._save(fed, end)  # before they end with their sources
        # A source that is stuck in a read ends by its own time limit; nobody waits for it here.
        closing = [asyncio.create_task(s.feed.close()) for s in fed if s.feed is not None]
        if closing:
            await asyncio.wait(closing, timeout=min(FAREWELL, max(0.1, end - time.monotonic())))
        for task in closing:
            task.cancel()
        busy = lambda: [s for s in live if not (s.stream.state.idle or s.stream.paused)]
        whole &= await self._until(lambda: not busy(), end)
        whole &= await self._save([s for s in pushed if not s.ended], end)
        if self.snapshots is not None:
            self.snapshots.let_go()
        held = [s.attached for s in pushed if s.attached is not None]
        whole &= await self._until(
            lambda: all(a.replaced or a.cursor >= a.session.recent.last for a in held), end
        )
        if hearing is not None:
            await asyncio.wait([hearing], timeout=max(0.1, end - time.monotonic()))
            whole &= hearing.done()
        for session in live:
            session.end("draining")
        await asyncio.sleep(0.05)  # the last words
        return whole

    def abandon(self, session: LiveSession) -> None:
        """Another server has the session: it ends here and stays in the store as it is."""
        if self.snapshots is not None:
            self.snapshots.forget(session)
        session.end("moved")
        self.sessions.remove(session)

    async def _save(self, sessions: list[LiveSession], end: float) -> bool:
        if self.snapshots is None:
            return True
        return await self.snapshots.save_all(sessions, max(0.1, end - time.monotonic()))

    async def _until(self, true: Callable[[], bool], end: float) -> bool:
        while not true():
            if time.monotonic() > end or self.engine.failure is not None:
                return False
            await asyncio.sleep(0.005)
        return True

    async def __aexit__(self, *_: object) -> None:
        if self.snapshots is not None:
            await self.snapshots.close()
        if self.sounds is not None:
            await self.sounds.close()
        self.sessions.close()
        if self.grpc is not None:
            await self.grpc.stop()
        self._web.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        self._socket.close()


async def run(
    engine: Engine,
    settings: Settings,
    addresses: Sequence[str] = (),
    spec: Spec | None = None,
    ready: Callable[[Server], None] = lambda _: None,
    hears: Hears | None = None,
    studio: Studio | None = None,
    talks: Callable[[Sessions], Talks] | None = None,
) -> bool:
    """Serves until SIGINT or SIGTERM; a second one does not wait for the drain.

    ``addresses`` are added as streams of ``spec``, by default at their own frame rate.

    Returns whether everything in flight was answered and saved.
    """
    server = Server(engine, settings, hears, studio, talks)
    loop = asyncio.get_running_loop()
    async with engine, studio or contextlib.nullcontext(), server:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        adding = asyncio.create_task(add_all(server.sessions, addresses, spec))
        signalled = asyncio.create_task(server.stopped())
        await asyncio.wait([adding, signalled], return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if adding.done():
            trying = adding.result()
            ready(server)
            await server.wait()
            for task in trying:
                task.cancel()
        else:  # a signal, while cameras are still being opened
            adding.cancel()
        if engine.failure is not None:
            return False
        server.again()
        drain = asyncio.create_task(server.drain())
        again = asyncio.create_task(server.stopped())
        await asyncio.wait([drain, again], return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        return drain.done() and drain.result()

"""`streamzoo serve`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..step import Step
from .access import Tokens
from .limits import Limits
from .server import Server, Settings, bind, run
from .spec import Spec


def settings_of(args: argparse.Namespace) -> Settings:
    """The options as :class:`Settings`. Raises ValueError: they do not go together."""
    if args.token_file is not None:
        tokens = Tokens.read(args.token_file)
    else:
        tokens = Tokens(filter(None, [os.environ.get("STREAMZOO_TOKEN")]))
    for name in ("slots", "snapshot_every", "ttl", "fps", "budget_ms"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {value:g}: give a number above 0")
    for name in ("port", "grpc_port"):
        port = getattr(args, name)
        if port is not None and not 0 <= port < 65536:
            raise ValueError(f"--{name.replace('_', '-')} {port}: give 0 to 65535")
    path = lambda text: None if text is None else Path(text).expanduser()  # noqa: E731
    return Settings(
        host=args.host, port=args.port, grpc_port=args.grpc_port, tokens=tokens,
        insecure=args.insecure, certificate=path(args.certificate), key=path(args.key),
        limits=Limits(ttl=args.ttl, streams_per_client=args.slots), store=path(args.store),
        every=args.snapshot_every,
    )  # fmt: skip


def serve(
    args: argparse.Namespace, settings: Settings, load: Callable[[], tuple[Any, Any, Any]]
) -> int:
    """Serves until a signal; the exit code. ``load() -> (model, params, card)``.

    Raises:
      ValueError: what the user can mend, said before anything is compiled where possible.
    """
    for port in (settings.port, settings.grpc_port):
        if port is not None:
            bind(settings.host, port).close()  # before minutes of compiling
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("streamzoo.serve").setLevel(logging.INFO)
    _many_files()
    model, params, card = load()
    step = Step(model, params, card)
    engine = Engine(step, slots=args.slots)

    def ready(server: Server) -> None:
        costs = server.engine.scheduler.costs
        times = ", ".join(f"{b}: {1e3 * costs.mean(b):.1f}" for b in costs.buckets)
        _say(f"{card.name}: ms per step of so many streams: {times}")
        for session in server.sessions.by_name.values():
            feed = session.feed
            if feed is not None:
                _say(f"stream {session.name}: {feed.source.name} at {session.spec.fps:g} frames/s")
        if server.grpc is not None:
            _say(f"gRPC on {settings.host}:{server.grpc.port}")
        _say(f"serving on {server.address} (WebSocket /ws, /streams, /metrics); Ctrl-C stops")
        _say(f"dashboard: {server.address}/")

    spec = None if args.fps is None else Spec(args.fps, args.budget_ms / 1e3)
    whole = asyncio.run(run(engine, settings, args.stream, spec, ready))
    _say("stopped" if whole else "stopped before everything in flight was answered and saved")
    return 0 if whole else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _many_files() -> None:
    """As many open connections as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))

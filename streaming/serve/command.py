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

from ..choice import chosen_step
from ..commands.examples import example_pictures
from ..commands.reading import reader_of
from ..engine import Engine
from ..generating import Look, loaded
from ..listening import Cutting
from ..sources.redaction import scrub
from ..ways import branches_of
from ..writers import writer
from .access import Tokens
from .inputs import named
from .limits import Limits
from .server import Server, Settings, bind, run
from .sessions import Sessions
from .spec import Spec
from .studio import Studio
from .talks import Talks


def settings_of(args: argparse.Namespace) -> Settings:
    """The options as :class:`Settings`. Raises ValueError: they do not go together."""
    tokens = Tokens.of(args.token_file, os.environ.get("STREAMZOO_TOKEN"))
    path = lambda text: None if text is None else Path(text).expanduser()
    return Settings(
        host=args.host, port=args.port, grpc_port=args.grpc_port, tokens=tokens,
        insecure=args.insecure, certificate=path(args.certificate), key=path(args.key),
        allow_hosts=tuple(args.allow_host), allow_origins=tuple(args.allow_origin),
        trusted_proxies=tuple(args.trusted_proxy),
        limits=Limits(ttl=args.ttl, streams_per_client=args.slots), store=path(args.store),
        every=args.snapshot_every, reader=reader_of(args), policy=args.policy,
    )  # fmt: skip


def serve(
    args: argparse.Namespace,
    settings: Settings,
    load: Callable[[], tuple[Any, Any, Any]],
    look: Look | None = None,
    language: Path | None = None,
) -> int:
    """Serves until a signal; the exit code. ``load() -> (model, params, card)``.

    look: of the video that clients are sent who ask for it.
    language: the file of the model that talks.

    Raises:
      ValueError: what the user can mend, said before anything is compiled where possible.
    """
    named(args.stream)
    for port in (settings.port, settings.grpc_port):
        if port is not None:
            bind(settings.host, port).close()  # before minutes of compiling
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Scrubbed("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("streamzoo.serve").setLevel(logging.INFO)
    _many_files()
    model, params, card = load()
    step = chosen_step(
        model, params, card, runtime=args.runtime, precision=args.precision,
        pictures=example_pictures(card.input_size), say=_say,
    )  # fmt: skip
    branches = None
    if args.adapt:
        size = tuple(card.input_size)
        branches = branches_of(step, size, example_pictures(size), say=_say)
    engine = Engine(step, slots=args.slots, order=args.order, branches=branches)
    studio = None if look is None else Studio(loaded(look), look, slots=args.slots)
    hears = None
    if args.listen is not None:
        _say(f"{args.listen}: loading, and compiling, to write down sound ...")
        begin = writer(args.listen, Cutting().longest, None, shown=True)
        begin().prepare()
        hears = args.listen, begin
    talks = None if language is None else _talks(args, language)

    def ready(server: Server) -> None:
        costs = server.engine.scheduler.costs
        times = ", ".join(f"{b}: {1e3 * costs.mean(b):.1f}" for b in costs.buckets)
        _say(f"{card.name}: ms per step of so many streams: {times}")
        governor = server.engine.scheduler.governor
        for gear in () if governor is None else governor.gears:
            per_frame = 1e3 * gear.costs.cheapest(1) / gear.every
            _say(f"branch {gear.name}: {gear.accuracy:.3f} as it is, {per_frame:.1f} ms per frame")
        for session in server.sessions.by_name.values():
            feed = session.feed
            if feed is not None:
                held = f", held {feed.source.delay:g} s (--delay)" if feed.source.delay else ""
                rate = f"{session.spec.fps:g} frames/s"
                _say(f"stream {session.name}: {feed.source.name} at {rate}{held}")
        if server.grpc is not None:
            _say(f"gRPC on {settings.host}:{server.grpc.port}")
        _say(f"serving on {server.address} (WebSocket /ws, /streams, /metrics); Ctrl-C stops")
        if look is not None:
            _say(f"{look.name}: video for clients of WebSocket /generate")
        _say(f"dashboard: {server.address}/")

    spec = None if args.fps is None else Spec(args.fps, args.budget_ms / 1e3, args.policy)
    whole = asyncio.run(run(engine, settings, args.stream, spec, ready, hears, studio, talks))
    _say("stopped" if whole else "stopped before everything in flight was answered and saved")
    return 0 if whole else 1


def _talks(args: argparse.Namespace, path: Path) -> Callable[[Sessions], Talks]:
    """One language model for all conversations; each has its own memory of --memory tokens."""
    from ..chat import Conversation
    from ..chat.loading import speaker_of

    _say(f"{args.language}: loading ...")
    speaker = speaker_of(args.language, path, args.memory_policy, args.memory)
    return lambda sessions: Talks(
        sessions, lambda: Conversation(speaker), args.every, args.language
    )


class Scrubbed(logging.Formatter):
    """Lines and stack traces, whoever wrote them, without the secrets of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _many_files() -> None:
    """As many open connections as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))

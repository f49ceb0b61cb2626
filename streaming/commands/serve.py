"""`streamzoo serve`."""

from __future__ import annotations

import argparse
from typing import Any

from ...layers.streaming import Params
from ...zoo.ranges import Count, Port, Positive, option
from ...zoo.registry import Card
from . import reading
from .common import (
    CliError,
    by,
    check_computed,
    check_watchable,
    default_model,
    need,
    runtime_options,
    say,
)
from .serving import access_options, model_options, session_options

SUMMARY = "serve a student to many live streams: cameras, and clients that push frames"
EXAMPLE = "streamzoo serve --model dsta-lite0/ucf11 --stream rtsp://127.0.0.1:8554/cam"
NOTES = """
Clients push frames over a WebSocket at /ws; the page at / does it with a browser's camera, and
streamzoo.streaming.serve.client from Python. GET /streams lists streams, POST {"url": ...} adds
one, DELETE /streams/NAME removes it, GET /streams/NAME/results?after=N gives its newest results;
/healthz and /metrics are for machines. Only this machine is let in unless --host says otherwise,
and then a token is needed: --token-file, or $STREAMZOO_TOKEN. Behind a reverse proxy give the
site that browsers see, --allow-origin. With --store a client goes on with its stream after a
crash and a restart. With --language streams can be asked: POST /streams/NAME/ask {"text": ...},
{"type": "ask"} over the WebSocket, and a chat beside each picture of the page. SIGTERM answers
what is in flight, saves it and exits with code 0."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    model_options(p)
    p.add_argument(
        "--stream",
        metavar="[NAME=]URL",
        action="append",
        default=[],
        help="camera address, file (played over and over) or camera number, and what its stream "
        "is called (default: cam0, cam1, ...); repeatable",
    )
    reading.options(p)
    p.add_argument(
        "--fps",
        metavar="N",
        type=option(Positive),
        help="frames per second to take of every --stream (default: as many as it has)",
    )
    p.add_argument(
        "--budget-ms",
        metavar="MS",
        type=option(Positive),
        default=120.0,
        help="from a frame of --stream to its answer, with --fps (default: 120)",
    )
    p.add_argument(
        "--generate",
        metavar="NAME",
        help="a generator whose video clients of WebSocket /generate are sent (default: none)",
    )
    p.add_argument(
        "--policy",
        choices=("events", "latest"),
        default="events",
        help="of --stream, when there are more frames than time: events never drops one on which "
        "much changes, latest keeps the newest (default: events)",
    )
    p.add_argument(
        "--adapt",
        action="store_true",
        help="when others use the machine: compare and time smaller pictures, narrower numbers and "
        "left-out frames at the start, and choose the most accurate way that serves all in time",
    )
    p.add_argument(
        "--order",
        choices=("fair", "goodput"),
        default="fair",
        help="who is served when not all can be in time: the same share of each stream, or what is "
        "worth most per second, by the worth that clients and POST /streams say (default: fair)",
    )
    p.add_argument(
        "--slots", metavar="N", type=option(Count), default=8, help="streams at once (default: 8)"
    )
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    p.add_argument(
        "--port",
        metavar="N",
        type=option(Port),
        default=8765,
        help="port (default: 8765; 0: a free one)",
    )
    p.add_argument(
        "--grpc-port", metavar="N", type=option(Port), help="port for gRPC (default: no gRPC)"
    )
    access_options(p)
    p.add_argument(
        "--trusted-proxy",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="address whose X-Forwarded-For and -Proto are believed (default: none); repeatable",
    )
    p.add_argument(
        "--listen",
        metavar="MODEL",
        help="also write down the sound of clients, by this recogniser: a name such as "
        "moonshine-base/en, or a file of weights (default: no sound)",
    )
    p.add_argument("--certificate", metavar="FILE", help="PEM certificate, for TLS")
    p.add_argument("--key", metavar="FILE", help="its private key")
    p.add_argument(
        "--language",
        metavar="NAME",
        help="language model that remarks and answers questions, e.g. smollm2-135m/instruct"
        " (default: none)",
    )
    p.add_argument(
        "--memory-policy",
        metavar="NAME",
        default="streaming-llm",
        help="what its memory keeps (default: streaming-llm)",
    )
    p.add_argument(
        "--memory",
        metavar="N",
        type=option(Count),
        default=512,
        help="tokens that it remembers of each stream (default: 512)",
    )
    p.add_argument(
        "--every",
        metavar="S",
        type=option(Positive),
        default=2.0,
        help="seconds from one round of words to the next (default: 2)",
    )
    p.add_argument("--store", metavar="FOLDER", help="folder for snapshots (default: none)")
    session_options(p)
    runtime_options(p)


def run(args: argparse.Namespace) -> int:
    """Serves streams until a signal; the exit code."""
    for module in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
        need(module, "serving", "serve")
    if args.grpc_port is not None:
        for module in ("grpc", "grpc_health", "grpc_reflection"):
            need(module, "serving over gRPC", "serve", "or leave --grpc-port away")
    from ...zoo import card_of, init_params, resolve
    from ..generating import look_of
    from ..serve.command import serve, settings_of

    settings = settings_of(args)
    try:
        look = None if args.generate is None else look_of(args.generate)
    except ValueError as error:
        raise CliError(f"--generate {error}") from None
    name = args.model or default_model()
    card = card_of(name)
    if card.task == "track":
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    check_watchable(name, card, args.random_weights)
    check_computed(args)
    language = None
    if args.language is not None:
        from ...layers.policies import create
        from ..chat.loading import weights_of

        create(
            args.memory_policy, args.memory
        )  # an unknown name is told before anything slow begins
        language = weights_of(args.language)

    def build() -> tuple[Any, Params, Card]:
        say(f"{name}: loading, and compiling for {by(card.input_size)} pixels ...")
        return (*init_params(name), card) if args.random_weights else resolve(name)

    return serve(args, settings, build, look, language)

"""`streamzoo cluster`."""

from __future__ import annotations

import argparse
from typing import Annotated

from ...zoo.ranges import Count, Positive, Range, Weight, option
from . import reading
from .common import CliError, check_watchable, default_model, need
from .serving import access_options, model_options, session_options

SUMMARY = "serve a student on many replicas, which come and go with the load (Ray Serve)"
EXAMPLE = "streamzoo cluster --model dsta-lite0/ucf11 --replicas 1:4 --store states"
NOTES = """
Clients ask the ingress, POST /v1/sessions, and are sent to a replica: a server of its own, with
which they talk directly at /ws. streamzoo.streaming.cluster.client does it from Python, again
after every disconnect; a session goes on from the store when its replica is killed or drained.
Replicas come when slots run out, frames pile up or answers are late, and go, drained, when few
are used. GET /v1/cluster shows them. Only this machine is let in unless --host says otherwise;
then a token is needed, and TLS is a front proxy's work. --ray-address joins a running Ray, whose
machines all need this package, the weights and the --store folder."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    model_options(p)
    p.add_argument(
        "--replicas", metavar="MIN:MAX", default="1:4", help="fewest and most (default: 1:4)"
    )
    p.add_argument(
        "--store", metavar="FOLDER", help="folder for snapshots, on every machine; needed"
    )
    p.add_argument(
        "--slots",
        metavar="N",
        type=option(Count),
        default=8,
        help="streams per replica (default: 8)",
    )
    p.add_argument("--host", default="127.0.0.1", help="address of the ingress and of all replicas")
    p.add_argument(
        "--port",
        metavar="N",
        type=option(Annotated[int, Range(1, 65535)]),
        default=8000,
        help="port of the ingress (default: 8000)",
    )
    access_options(p)
    p.add_argument(
        "--replica-cpus",
        metavar="N",
        type=option(Positive),
        default=1.0,
        help="of a replica (default: 1)",
    )
    p.add_argument(
        "--replica-gpus",
        metavar="N",
        type=option(Weight),
        default=0.0,
        help="of a replica (default: 0)",
    )
    session_options(p)
    reading.delay_option(p)
    p.add_argument(
        "--scale-down-after",
        metavar="S",
        type=option(Weight),
        default=60.0,
        help="seconds that fewer replicas must do before one goes (default: 60)",
    )
    p.add_argument("--ray-address", metavar="HOST:PORT", help="of a running Ray (default: none)")
    p.add_argument(
        "--python-proxy", action="store_true", help="Ray's own proxy before the ingress, no HAProxy"
    )


def run(args: argparse.Namespace) -> int:
    """Serves streams on many replicas until a signal; the exit code."""
    for module in ("ray", "fastapi", "uvicorn", "websockets", "prometheus_client"):
        need(module, "a cluster", "cluster")
    from ...zoo import card_of
    from ..cluster.command import cluster_of, serve

    cluster = cluster_of(args)
    name = args.model or default_model()
    card = card_of(name)
    if card.task == "track":
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    check_watchable(name, card, args.random_weights)
    return serve(args, cluster, name)

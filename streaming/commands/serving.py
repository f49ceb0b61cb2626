"""Options of a server, which runs on one machine (`serve`) or on many (`cluster`)."""

from __future__ import annotations

import argparse

from ...zoo.ranges import Positive, option


def model_options(p: argparse.ArgumentParser) -> None:
    """Adds which model answers."""
    p.add_argument(
        "--model",
        metavar="NAME",
        help="model name, or a weights file of ours (default: follow-nano/coco)",
    )
    p.add_argument("--random-weights", action="store_true", help="run a model that has no weights")


def access_options(p: argparse.ArgumentParser) -> None:
    """Adds who is let in."""
    p.add_argument(
        "--token-file",
        metavar="FILE",
        help="tokens that let clients in: every line of it, spaces included, is one",
    )
    p.add_argument("--insecure", action="store_true", help="let everybody in, on any --host")
    p.add_argument(
        "--allow-origin",
        metavar="URL",
        action="append",
        default=[],
        help="site whose pages may ask besides the server's own, https://HOST[:PORT] as the "
        "browser shows it, for a reverse proxy in front; repeatable",
    )
    p.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="name in the Host header that is let in besides this machine's own; repeatable",
    )


def session_options(p: argparse.ArgumentParser) -> None:
    """Adds how long a stream is kept for its client, and how often."""
    p.add_argument(
        "--ttl",
        metavar="S",
        type=option(Positive),
        default=60.0,
        help="seconds that a stream waits for its client to come back (default: 60)",
    )
    p.add_argument(
        "--snapshot-every",
        metavar="S",
        type=option(Positive),
        default=1.0,
        help="seconds between snapshots of a stream (default: 1)",
    )

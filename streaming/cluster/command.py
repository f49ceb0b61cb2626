"""`streamzoo cluster`."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ...layers.streaming import Params
from ...zoo.registry import Card
from ..commands.reading import delay_of
from ..serve.access import Tokens
from ..serve.limits import Limits
from ..serve.server import Settings
from .launch import Cluster, start, stop, wait


def load(name: str, random_weights: bool, cache: bool) -> tuple[Any, Params, Card]:
    """(model, params, card), in a replica; nothing of the command line's process is there."""
    from ...zoo import init_params, model_card, resolve
    from ..step import enable_compile_cache

    if cache:
        enable_compile_cache()
    return (*init_params(name), model_card(name)) if random_weights else resolve(name)


def cluster_of(args: argparse.Namespace) -> Cluster:
    """The options as :class:`Cluster`. Raises ValueError: they do not go together."""
    few, _, many = args.replicas.partition(":")
    if not few.isdecimal() or not (many or few).isdecimal():
        raise ValueError(f"--replicas {args.replicas}: give MIN:MAX, such as 1:4")
    tokens = Tokens.of(args.token_file, os.environ.get("STREAMZOO_TOKEN"))
    settings = Settings(
        host=args.host, port=args.port, tokens=tokens, insecure=args.insecure,
        limits=Limits(ttl=args.ttl, streams_per_client=args.slots), every=args.snapshot_every,
        reader={"delay": delay_of(args)},
        allow_hosts=tuple(args.allow_host), allow_origins=tuple(args.allow_origin),
        store=None if args.store is None else Path(args.store).expanduser().resolve(),
    )  # fmt: skip
    return Cluster(
        settings, (int(few), int(many or few)), args.slots, args.replica_cpus, args.replica_gpus,
        down=args.scale_down_after, haproxy=False if args.python_proxy else None,
    )  # fmt: skip


def serve(args: argparse.Namespace, cluster: Cluster, name: str) -> int:
    """Serves until a signal; the exit code. Raises ValueError: what the user can mend."""
    _say(f"{name}: starting Ray, and {cluster.replicas[0]} replicas that load and compile it ...")
    start(
        cluster,
        partial(load, name, args.random_weights, not args.no_compile_cache),
        args.ray_address,
    )
    try:
        few, many = cluster.replicas
        _say(f"{few} to {many} replicas of {cluster.slots} streams each")
        _say(f"cluster on {cluster.address} (POST /v1/sessions, GET /v1/cluster); Ctrl-C stops")
        wait()
        _say("draining ...")
    finally:
        stop()
    _say("stopped")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

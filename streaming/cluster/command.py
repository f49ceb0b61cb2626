"""`streamzoo cluster`."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..serve.access import Tokens
from ..serve.limits import Limits
from ..serve.server import Settings
from .launch import Cluster, start, stop, wait


def load(name: str, random_weights: bool, cache: bool) -> tuple[Any, Any, Any]:
    """(model, params, card), in a replica; nothing of the command line's process is there."""
    from ...zoo import init_params
    from ...zoo import load as load_weights
    from ..session import card_of
    from ..step import enable_compile_cache

    if cache:
        enable_compile_cache()
    model, params = init_params(name) if random_weights else load_weights(name)
    return model, params, card_of(name, model)


def cluster_of(args: argparse.Namespace) -> Cluster:
    """The options as :class:`Cluster`. Raises ValueError: they do not go together."""
    for name in ("slots", "snapshot_every", "ttl", "replica_cpus", "port"):
        value = getattr(args, name)
        if not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    few, _, many = args.replicas.partition(":")
    if not few.isdecimal() or not (many or few).isdecimal():
        raise ValueError(f"--replicas {args.replicas}: give MIN:MAX, such as 1:4")
    if args.token_file is not None:
        tokens = Tokens.read(args.token_file)
    else:
        tokens = Tokens(filter(None, [os.environ.get("STREAMZOO_TOKEN")]))
    settings = Settings(
        host=args.host, port=args.port, tokens=tokens, insecure=args.insecure,
        limits=Limits(ttl=args.ttl, streams_per_client=args.slots), every=args.snapshot_every,
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

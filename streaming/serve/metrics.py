"""Prometheus metrics of a server; OpenTelemetry gets the same, where it is installed.

Histograms are per stage, not per stream: a scrape stays small with many streams. Everything that
the ledger counts is read from it when a scrape comes, at no cost per frame.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..engine import Answer
from .live_session import LiveSession
from .sessions import Sessions
from .telemetry import telemetry

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.25, 0.5, 1.0, 2.5)
STAGES = ("decode", "wait", "step", "engine", "send")


class Metrics:
    """``observe(stage, seconds)``, and :meth:`text` for a scrape.

    Stages: decode (JPEG to pixels of the model's size), wait (arrival to launch), step (the
    model's), engine (arrival to answer), send (a result into the socket).
    """

    def __init__(self, sessions: Sessions):
        self._sessions = sessions
        self._registry = CollectorRegistry()
        histogram = Histogram(
            "streamzoo_stage_seconds", "Seconds of a frame in a stage.", ["stage"],
            buckets=BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._stages = {stage: histogram.labels(stage) for stage in STAGES}
        self._registry.register(self)
        sessions.listeners.append(self._answered)
        self._telemetry = telemetry(sessions)

    def observe(self, stage: str, seconds: float) -> None:
        self._stages[stage].observe(seconds)
        if self._telemetry is not None:
            self._telemetry.observe(stage, seconds)

    def _answered(self, session: LiveSession, answer: Answer) -> None:
        del session
        if answer.result is not None:
            step = answer.result.milliseconds / 1e3
            self.observe("step", step)
            self.observe("wait", max(0.0, answer.latency - step))
            self.observe("engine", answer.latency)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """For the registry, which would otherwise collect before there is an engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """For the registry: the ledger, now."""
        report, sessions = self._sessions.engine.report(), self._sessions.by_name.values()
        total = report["total"]
        for name in ("received", "completed", "late", "refused"):
            counter = CounterMetricFamily(f"streamzoo_frames_{name}", f"Frames {name}.")
            counter.add_metric([], total[name])
            yield counter
        dropped = CounterMetricFamily(
            "streamzoo_frames_dropped", "Frames dropped, by reason.", labels=["reason"]
        )
        for reason in ("superseded", "late", "closed", "error"):
            dropped.add_metric([reason], total["dropped"].get(reason, 0))
        yield dropped
        gauges = {
            "slots": ("Slots.", report["slots"]),
            "slots_used": ("Slots that hold a stream.", len(report["streams"])),
            "load": ("Share of the time that admitted streams need.", report["load"]),
            "sessions": ("Sessions, ended ones too.", len(sessions)),
            "sessions_attached": (
                "Sessions with a client.",
                sum(s.attached is not None for s in sessions),
            ),
            "frames_running": ("Frames in launched steps.", total["running"]),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"streamzoo_{name}", text, value)
        depth = GaugeMetricFamily(
            "streamzoo_queue_depth", "Frames that wait, by stream.", labels=["stream"]
        )
        done = CounterMetricFamily(
            "streamzoo_stream_completed", "Frames answered, by stream.", labels=["stream"]
        )
        for stream, books in report["streams"].items():
            depth.add_metric([stream], books["waiting"])
            done.add_metric([stream], books["completed"])
        yield depth
        yield done

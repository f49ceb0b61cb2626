"""OpenTelemetry spans and metrics of a server (extra ``otel``), through its API alone.

What becomes of them is for the operator's SDK to say; without one they cost next to nothing:

    opentelemetry-instrument --service_name streamzoo streamzoo serve ...
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..engine import Answer
from .live_session import LiveSession
from .sessions import Sessions

NAME = "streamzoo.serve"


def telemetry(sessions: Sessions) -> Telemetry | None:
    """None: OpenTelemetry is not installed."""
    if importlib.util.find_spec("opentelemetry") is None:
        return None
    return Telemetry(sessions)


class Telemetry:
    """A span per answered frame, with the stages in it, and what Prometheus gets as metrics.

    Spans: ``frame`` (arrival to answer; attributes stream, index, and error where there is one)
    with the children ``wait`` and ``step``. Metrics: ``streamzoo.stage.duration`` in seconds by
    stage, ``streamzoo.frames`` by state, ``streamzoo.frames.dropped`` by reason, both over all
    streams, and ``streamzoo.queue.depth`` by stream.
    """

    def __init__(self, sessions: Sessions):
        from opentelemetry import metrics, trace

        self._trace, self._sessions = trace, sessions
        self._observation: Callable[..., Any] = metrics.Observation
        self._tracer = trace.get_tracer(NAME)
        meter = metrics.get_meter(NAME)
        self._stages = meter.create_histogram(
            "streamzoo.stage.duration", unit="s", description="Seconds of a frame in a stage."
        )
        meter.create_observable_counter(
            "streamzoo.frames", [self._frames], "{frame}", "Frames by what became of them."
        )
        meter.create_observable_counter(
            "streamzoo.frames.dropped", [self._dropped], "{frame}", "Frames dropped, by reason."
        )
        meter.create_observable_gauge(
            "streamzoo.queue.depth", [self._waiting], "{frame}", "Frames that wait, by stream."
        )
        sessions.listeners.append(self._answered)

    def observe(self, stage: str, seconds: float) -> None:
        self._stages.record(seconds, {"stage": stage})

    def _answered(self, session: LiveSession, answer: Answer) -> None:
        end = time.time_ns()
        start = end - round(1e9 * answer.latency)
        tracer, attributes = self._tracer, {"stream": session.name, "index": answer.index}
        frame = tracer.start_span("frame", start_time=start, attributes=attributes)
        if answer.result is None:
            frame.set_status(self._trace.StatusCode.ERROR, answer.error)
        else:
            context = self._trace.set_span_in_context(frame)
            begun = max(start, end - round(1e6 * answer.result.milliseconds))
            for name, since, until in (("wait", start, begun), ("step", begun, end)):
                tracer.start_span(name, context, start_time=since).end(until)
        frame.end(end)

    # For the SDK, when it exports.

    def _frames(self, _: Any) -> Iterator[Any]:
        total = self._sessions.engine.report()["total"]
        for state in ("received", "completed", "late", "refused"):
            yield self._observation(total[state], {"state": state})

    def _dropped(self, _: Any) -> Iterator[Any]:
        total = self._sessions.engine.report()["total"]
        for reason, count in total["dropped"].items():
            yield self._observation(count, {"reason": reason})

    def _waiting(self, _: Any) -> Iterator[Any]:
        for stream, books in self._sessions.engine.report()["streams"].items():
            yield self._observation(books["waiting"], {"stream": stream})

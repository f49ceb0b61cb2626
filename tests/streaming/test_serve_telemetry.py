"""OpenTelemetry: the spans and metrics of a session, as the SDK would export them."""

import asyncio

import pytest

from streamzoo.streaming.serve import Sessions, Spec
from streamzoo.streaming.serve import telemetry as module
from streamzoo.streaming.serve.metrics import Metrics

from .serving import engine, run
from .stub import video
from .test_serve_sessions import collect, feed

otel = pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")


@pytest.fixture
def exported(monkeypatch):
    """(finished spans, metrics by name), both callables; nothing global is set."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)

    def read():
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: list(metric.data.data_points) for metric in scope.metrics}

    yield spans.get_finished_spans, read
    meters.shutdown()
    tracers.shutdown()


def test_spans_and_metrics_say_what_the_records_and_the_ledger_say(exported):
    spans, read = exported

    async def main():
        async with engine() as e:
            sessions = Sessions(e)
            metrics = Metrics(sessions)
            session = sessions.open(Spec(budget=60.0, policy="lossless"), name="cam")
            attachment = session.attach()
            task = asyncio.create_task(feed(session, video(0, 7)))
            _, records = await collect(attachment, 7)
            await task
            metrics.observe("decode", 0.25)
            frames = sorted(
                (s for s in spans() if s.name == "frame"), key=lambda s: s.attributes["index"]
            )
            assert [s.attributes["index"] for s in frames] == list(range(7))
            for frame, record in zip(frames, records, strict=True):
                children = {s.name: s for s in spans() if s.parent and s.parent == frame.context}
                assert set(children) == {"wait", "step"} and frame.attributes["stream"] == "cam"
                wait, step = children["wait"], children["step"]
                assert frame.start_time == wait.start_time <= wait.end_time == step.start_time
                assert step.end_time == frame.end_time and frame.status.is_ok
                lasted = (frame.end_time - frame.start_time) / 1e6
                assert lasted == pytest.approx(record["latency_ms"], abs=0.002)
            points = read()
            states = {p.attributes["state"]: p.value for p in points["streamzoo.frames"]}
            assert states == {"received": 7, "completed": 7, "late": 0, "refused": 0}
            stages = {p.attributes["stage"]: p for p in points["streamzoo.stage.duration"]}
            assert stages["engine"].count == stages["step"].count == 7
            assert stages["decode"].sum == 0.25
            (depth,) = points["streamzoo.queue.depth"]
            assert (depth.attributes["stream"], depth.value) == ("cam", 0)
            sessions.close()

    run(main())


def test_a_frame_whose_step_failed_is_an_error(exported):
    spans, _ = exported

    async def main():
        async with engine() as e:
            sessions = Sessions(e)
            Metrics(sessions)
            session = sessions.open(Spec(budget=60.0))

            def broken(*_):
                raise RuntimeError("the chip is on fire")

            e._pool.launch = broken
            session.offer(0, video(0, 1)[0])
            while not session.recent.last:
                await asyncio.sleep(0.001)
            (span,) = spans()
            assert not span.status.is_ok and "on fire" in span.status.description
            sessions.close()

    run(main())


def test_without_opentelemetry_there_is_none(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)

    async def main():
        async with engine() as e:
            assert module.telemetry(Sessions(e)) is None

    run(main())

"""Spans and metrics as OpenTelemetry's own SDK has them; nothing of it is there when it is off."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stream_server.metrics import Metrics
from stream_server.tracing import Decode, Tracing, make_tracing, open_tracing, send_metrics

DECODE = Decode("s1", 3, 2, True, 4.0, 0.25, 0.5, 1.0, 8)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return make_tracing(provider, provider.shutdown)


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def seconds(span: ReadableSpan) -> float:
    assert span.end_time is not None
    assert span.start_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_an_utterance_lies_in_its_session_and_its_parts_in_it(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    tracing.begin_session("s1")
    tracing.record(DECODE)
    tracing.end_session("s1", "completed")
    found = spans(exporter)
    assert set(found) == {"session", "utterance", "queue", "encode", "steps"}
    session, utterance = found["session"], found["utterance"]
    assert utterance.parent is not None
    assert utterance.parent.span_id == session.context.span_id
    parts = [found[name] for name in ("queue", "encode", "steps")]
    assert {part.parent.span_id for part in parts if part.parent} == {utterance.context.span_id}
    assert [seconds(part) for part in parts] == pytest.approx([0.25, 0.5, 1.0])
    assert seconds(utterance) == pytest.approx(1.75)
    assert parts[0].end_time == parts[1].start_time
    assert dict(session.attributes or {}) == {
        "diffscribe.session": "s1",
        "diffscribe.outcome": "completed",
    }
    assert (utterance.attributes or {})["diffscribe.steps"] == 8


def test_a_decode_of_no_session_is_a_span_of_its_own(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    tracing.record(DECODE)
    tracing.end_session("another", "failed")
    assert spans(exporter)["utterance"].parent is None
    assert "session" not in spans(exporter)


def test_metrics_have_the_values_and_labels_of_prometheus() -> None:
    metrics, reader = Metrics(), InMemoryMetricReader()
    send_metrics(metrics.registry, MeterProvider([reader]))
    metrics.record_session_started()
    metrics.record_error("bad_audio")
    metrics.record_final_latency(0.5)
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        (metric.name, *sorted(point.attributes.values())): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert found["diffscribe_sessions",] == 1
    assert found["diffscribe_errors_total", "bad_audio"] == 1
    assert found["diffscribe_final_latency_seconds_count",] == 1
    assert found["diffscribe_final_latency_seconds_sum",] == 0.5


def test_an_exporter_that_reaches_nobody_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = open_tracing(Metrics().registry, "1")
    tracing.begin_session("s1")
    tracing.end_session("s1", "completed")
    tracing.close()


def test_nothing_is_imported_unless_it_is_wanted() -> None:
    code = "import sys, stream_server.server; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

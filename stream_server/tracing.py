"""OpenTelemetry, for whoever asked for it: spans of sessions and utterances, and the metrics.

A session is a span; each utterance that it has decoded is one below it, with ``queue``, ``encode``
and ``steps`` below that. They are made when the reply is there, from the times that were measured
anyway, so that nothing is added between two steps. No text and no audio is in any of them.

Where they go is said by OpenTelemetry's own environment variables (``OTEL_EXPORTER_OTLP_ENDPOINT``
and so on). The packages are the extra ``[otel]``; nothing of them is imported unless it is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from stream_server.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, Tracer, TracerProvider

_SCOPE = "diffscribe"
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Decode:
    """What is told of one utterance that was decoded."""

    session: str
    segment: int
    revision: int
    is_final: bool
    audio_seconds: float
    queue_seconds: float
    """From the request to its row."""
    encode_seconds: float
    """In which rows were started."""
    steps_seconds: float
    """From then to the last step."""
    steps: int


class Tracing:
    """Makes the spans of one server.

    Args:
        tracer: makes them.
        shut_down: sends what is left; called once.
        clock: nanoseconds since 1970.
    """

    def __init__(
        self,
        tracer: Tracer,
        shut_down: Callable[[], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer = tracer
        self._shut_down = shut_down
        self._clock = clock
        self._sessions: dict[str, Span] = {}

    def begin_session(self, session: str) -> None:
        """A session was opened."""
        attributes = {"diffscribe.session": session}
        self._sessions[session] = self._tracer.start_span(
            "session", attributes=attributes, start_time=self._clock()
        )

    def end_session(self, session: str, outcome: str) -> None:
        """A session came to its end."""
        span = self._sessions.pop(session, None)
        if span is not None:
            span.set_attribute("diffscribe.outcome", outcome)
            span.end(self._clock())

    def record(self, decode: Decode) -> None:
        """An utterance was decoded, just now. On any thread."""
        now = self._clock()
        encoded = now - int(decode.steps_seconds * _BILLION)
        begun = encoded - int(decode.encode_seconds * _BILLION)
        asked = begun - int(decode.queue_seconds * _BILLION)
        parent = self._sessions.get(decode.session)
        utterance = self._span("utterance", parent, asked)
        utterance.set_attributes(
            {
                "diffscribe.session": decode.session,
                "diffscribe.segment": decode.segment,
                "diffscribe.revision": decode.revision,
                "diffscribe.is_final": decode.is_final,
                "diffscribe.audio_seconds": decode.audio_seconds,
                "diffscribe.steps": decode.steps,
            }
        )
        for name, first, last in (
            ("queue", asked, begun),
            ("encode", begun, encoded),
            ("steps", encoded, now),
        ):
            self._span(name, utterance, first).end(last)
        utterance.end(now)

    def close(self) -> None:
        """Send what is left."""
        self._shut_down()

    def _span(self, name: str, parent: Span | None, start: int) -> Span:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(parent) if parent is not None else None
        return self._tracer.start_span(name, context, start_time=start)


def open_tracing(registry: CollectorRegistry, version: str) -> Tracing:
    """Return the tracing of this process, which also sends the metrics.

    Args:
        registry: the server's metrics.
        version: of the server.

    Raises:
        ConfigError: the extra ``[otel]`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        needs = f"the extra [otel] installed: pip install 'diffscribe[otel]' ({error.name} lacks)"
        raise ConfigError("listen.otel", True, needs) from error
    resource = Resource.create({"service.name": "diffscribe", "service.version": version})
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    meters = MeterProvider([reader], resource=resource)
    send_metrics(registry, meters)

    def shut_down() -> None:
        spans.shutdown()
        meters.shutdown()

    return make_tracing(spans, shut_down)


def make_tracing(provider: TracerProvider, shut_down: Callable[[], None]) -> Tracing:
    """Return the tracing that gives its spans to ``provider``."""
    return Tracing(provider.get_tracer(_SCOPE), shut_down)


def send_metrics(registry: CollectorRegistry, provider: MeterProvider) -> None:
    """Have ``provider`` ask for every metric of ``registry``, under its Prometheus name.

    Of a histogram its count and its sum: OpenTelemetry has no histogram that can be asked for.
    """
    meter = provider.get_meter(_SCOPE)
    for family in registry.collect():
        if family.type == "gauge":
            ask = _reader(registry, family.name)
            meter.create_observable_gauge(family.name, [ask], description=family.documentation)
            continue
        endings = ("_total",) if family.type == "counter" else ("_count", "_sum")
        for ending in endings:
            name = family.name + ending
            ask = _reader(registry, name)
            meter.create_observable_counter(name, [ask], description=family.documentation)


def _reader(
    registry: CollectorRegistry, name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation

    only = registry.restricted_registry([name])

    def read(options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(sample.value, sample.labels)
            for family in only.collect()
            for sample in family.samples
        ]

    return read


__all__ = ["Decode", "Tracing", "make_tracing", "open_tracing", "send_metrics"]

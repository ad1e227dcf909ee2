"""Counters, gauges and histograms of one server, named in this one place.

Callers use the ``record_...`` methods and hold no label strings. Each :class:`Metrics` has a
registry of its own, so two servers in one process do not meet. Every method is thread-safe and
costs about a microsecond: label children are looked up once, here.

Who records what: the engine records queueing, decoding, steps, rows, dropped partials, failed
requests and the guard; a session's driver records sessions, audio, errors sent, first partials and
the latency of finals and of ``flush``. The age of the queue and the memory of the GPU are asked for
when somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stream_protocol.messages import ErrorCode

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""MIME type of what :meth:`Metrics.render` returns."""

SessionOutcome = Literal["completed", "disconnected", "failed", "refused"]
"""``completed``: stopped and done. ``disconnected``: the client went away. ``failed``: closed with
an error. ``refused``: never opened (overloaded, draining, unauthorized)."""

DropReason = Literal["replaced", "cancelled", "expired"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Edges in seconds, close together where people notice the difference."""
_FACTORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
_TURNS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_session_metrics()
        self._make_engine_metrics()

    def _make_session_metrics(self) -> None:
        registry = self.registry
        self._sessions = Gauge("diffscribe_sessions", "Live sessions.", registry=registry)
        # Not "diffscribe_sessions_total": OpenMetrics gives that name's family to the gauge above.
        ended = Counter(
            "diffscribe_sessions_ended",
            "Sessions that ended, by how.",
            ["outcome"],
            registry=registry,
        )
        self._ended = {name: ended.labels(name) for name in get_args(SessionOutcome)}
        self._audio = Counter(
            "diffscribe_audio_seconds", "Seconds of audio received.", registry=registry
        )
        errors = Counter(
            "diffscribe_errors", "Errors sent to clients, by code.", ["code"], registry=registry
        )
        self._errors = {name: errors.labels(name) for name in get_args(ErrorCode)}
        self._first_partial = Histogram(
            "diffscribe_first_partial_seconds",
            "Seconds from the start of speech to the first partial of its segment.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._final_latency = Histogram(
            "diffscribe_final_latency_seconds",
            "Seconds from the end of speech to its final, the pause that proves it in it.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._finalise = Histogram(
            "diffscribe_finalise_seconds",
            "Seconds from a flush to its answer, after the finals that were due.",
            buckets=_SECONDS,
            registry=registry,
        )

    def _make_engine_metrics(self) -> None:
        registry = self.registry
        self._queue = Histogram(
            "diffscribe_queue_seconds",
            "Seconds from a request to its first step.",
            buckets=_SECONDS,
            registry=registry,
        )
        decode = Histogram(
            "diffscribe_decode_seconds",
            "Seconds from the first step of a request to its last.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._decode = {True: decode.labels("final"), False: decode.labels("partial")}
        self._factor = Histogram(
            "diffscribe_real_time_factor",
            "Seconds of decoding for a second of audio, of finals.",
            buckets=_FACTORS,
            registry=registry,
        )
        self._steps = Counter("diffscribe_steps", "Denoising steps run.", registry=registry)
        self._rows = Gauge("diffscribe_rows", "Rows in the current step.", registry=registry)
        self._batch = Histogram(
            "diffscribe_batch_rows", "Rows of each step.", buckets=_ROWS, registry=registry
        )
        self._turn = Histogram(
            "diffscribe_turn_seconds",
            "Seconds of a step and of the starts before it.",
            buckets=_TURNS,
            registry=registry,
        )
        dropped = Counter(
            "diffscribe_partials_dropped",
            "Partials that were not decoded, by reason.",
            ["reason"],
            registry=registry,
        )
        self._dropped = {name: dropped.labels(name) for name in get_args(DropReason)}
        failed = Counter(
            "diffscribe_requests_failed",
            "Requests that could not be decoded, by code.",
            ["code"],
            registry=registry,
        )
        self._failed = {name: failed.labels(name) for name in get_args(ErrorCode)}
        self._up = Gauge(
            "diffscribe_engine_up", "1 while the engine takes and runs work.", registry=registry
        )
        self._capacity = Gauge(
            "diffscribe_sessions_capacity",
            "Sessions that the model bears by what they take; 0 is not known.",
            registry=registry,
        )
        guard = Counter(
            "diffscribe_guard_hits",
            "Decodes of which the guard against invented text took words, by kind.",
            ["kind"],
            registry=registry,
        )
        self._guard = {True: guard.labels("final"), False: guard.labels("partial")}
        self._queue_age = Gauge(
            "diffscribe_queue_age_seconds",
            "Seconds for which the oldest request has waited; 0 where none waits.",
            registry=registry,
        )
        self._gpu = Gauge(
            "diffscribe_gpu_memory_bytes",
            "Memory that the server holds of its GPU; 0 on a CPU.",
            registry=registry,
        )
        self._build = Gauge(
            "diffscribe_build_info",
            "Always 1; the labels say what runs.",
            ["version", "model"],
            registry=registry,
        )

    # --- sessions ---------------------------------------------------------------------------

    def record_session_started(self) -> None:
        """A session was opened."""
        self._sessions.inc()

    def record_session_ended(self, outcome: SessionOutcome) -> None:
        """A session that was opened came to its end."""
        self._sessions.dec()
        self._ended[outcome].inc()

    def record_session_refused(self) -> None:
        """A session was turned away before it was opened."""
        self._ended["refused"].inc()

    def record_audio(self, seconds: float) -> None:
        """``seconds`` more of audio were received."""
        self._audio.inc(seconds)

    def record_error(self, code: ErrorCode) -> None:
        """An error was sent to a client."""
        self._errors[code].inc()

    def record_first_partial(self, seconds: float) -> None:
        """A segment's first partial was sent ``seconds`` after its speech started."""
        self._first_partial.observe(seconds)

    def record_final_latency(self, seconds: float) -> None:
        """A final was sent ``seconds`` after its speech had ended."""
        self._final_latency.observe(seconds)

    def record_finalised(self, seconds: float) -> None:
        """A ``flush`` was answered ``seconds`` after it had come."""
        self._finalise.observe(seconds)

    # --- engine -----------------------------------------------------------------------------

    def record_step(self, rows: int, seconds: float) -> None:
        """One denoising step was run over ``rows`` rows, in a turn of ``seconds``."""
        self._steps.inc()
        self._turn.observe(seconds)
        self._rows.set(rows)
        self._batch.observe(rows)

    def record_idle(self) -> None:
        """The engine has no rows."""
        self._rows.set(0)

    def record_decoded(
        self, *, is_final: bool, queue_seconds: float, decode_seconds: float, audio_seconds: float
    ) -> None:
        """A request of ``audio_seconds`` of audio was decoded."""
        self._queue.observe(queue_seconds)
        self._decode[is_final].observe(decode_seconds)
        if is_final and audio_seconds > 0:
            self._factor.observe(decode_seconds / audio_seconds)

    def record_partial_dropped(self, reason: DropReason) -> None:
        """A partial was not decoded."""
        self._dropped[reason].inc()

    def record_request_failed(self, code: ErrorCode) -> None:
        """A request could not be decoded."""
        self._failed[code].inc()

    def record_guard_hit(self, *, is_final: bool) -> None:
        """The guard took words of a decode."""
        self._guard[is_final].inc()

    def watch_queue(self, age: Callable[[], float]) -> None:
        """Ask ``age`` for the seconds of the oldest request whenever somebody reads."""
        self._queue_age.set_function(age)

    def watch_gpu(self, memory: Callable[[], float]) -> None:
        """Ask ``memory`` for the bytes that are held of the GPU whenever somebody reads."""
        self._gpu.set_function(memory)

    def record_engine_up(self, is_up: bool) -> None:
        """The engine began to take work, or stopped."""
        self._up.set(1 if is_up else 0)

    def record_capacity(self, sessions: int) -> None:
        """The model bears so many sessions, by what they take at present."""
        self._capacity.set(sessions)

    def record_build(self, *, version: str, model: str) -> None:
        """What runs; replaces what was said before."""
        self._build.clear()
        self._build.labels(version, model).set(1)

    # --- reading ----------------------------------------------------------------------------

    def render(self) -> bytes:
        """Return everything in the Prometheus text format (see :data:`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


def render_markdown() -> str:
    """Return every metric as a Markdown table, for the documentation."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for each in family.samples for label in each.labels} - {"le"})
        if name == "diffscribe_build_info":  # says nothing before something runs
            labels = ["model", "version"]
        cells = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {family.type} | {cells} | {family.documentation} |")
    return "\n".join(lines) + "\n"


__all__ = ["CONTENT_TYPE", "DropReason", "Metrics", "SessionOutcome", "render_markdown"]

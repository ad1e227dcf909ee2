"""Names and types of the metrics, as an outside reader parses them."""

from __future__ import annotations

import threading
from typing import get_args

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from stream_protocol.messages import ErrorCode
from stream_server.metrics import CONTENT_TYPE, Metrics, SessionOutcome, render_markdown


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"diffscribe_{name}", labels)


def test_render_is_what_a_scraper_reads() -> None:
    metrics = Metrics()
    families = {
        each.name: each for each in text_string_to_metric_families(metrics.render().decode())
    }
    names = {name for name in families if not name.endswith("_created")}
    assert {name: families[name].type for name in names} == {
        "diffscribe_sessions": "gauge",
        "diffscribe_sessions_ended": "counter",
        "diffscribe_audio_seconds": "counter",
        "diffscribe_queue_seconds": "histogram",
        "diffscribe_decode_seconds": "histogram",
        "diffscribe_steps": "counter",
        "diffscribe_rows": "gauge",
        "diffscribe_batch_rows": "histogram",
        "diffscribe_turn_seconds": "histogram",
        "diffscribe_partials_dropped": "counter",
        "diffscribe_requests_failed": "counter",
        "diffscribe_final_latency_seconds": "histogram",
        "diffscribe_first_partial_seconds": "histogram",
        "diffscribe_real_time_factor": "histogram",
        "diffscribe_errors": "counter",
        "diffscribe_engine_up": "gauge",
        "diffscribe_build_info": "gauge",
        "diffscribe_finalise_seconds": "histogram",
        "diffscribe_guard_hits": "counter",
        "diffscribe_queue_age_seconds": "gauge",
        "diffscribe_gpu_memory_bytes": "gauge",
        "diffscribe_sessions_capacity": "gauge",
    }
    assert all(family.documentation for family in families.values())
    assert CONTENT_TYPE.startswith("text/plain")


def test_names_are_legal_in_openmetrics_too() -> None:
    from prometheus_client.openmetrics.exposition import generate_latest

    metrics = Metrics()
    text = generate_latest(metrics.registry).decode()
    assert list(openmetrics.text_string_to_metric_families(text))


def test_two_servers_in_one_process_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.record_session_started()
    assert value(one, "sessions") == 1
    assert value(other, "sessions") == 0


def test_sessions() -> None:
    metrics = Metrics()
    metrics.record_session_started()
    metrics.record_session_started()
    metrics.record_session_ended("disconnected")
    metrics.record_session_refused()
    assert value(metrics, "sessions") == 1
    assert value(metrics, "sessions_ended_total", outcome="disconnected") == 1
    assert value(metrics, "sessions_ended_total", outcome="refused") == 1
    metrics.record_audio(0.5)
    metrics.record_audio(1.0)
    assert value(metrics, "audio_seconds_total") == 1.5
    metrics.record_error("bad_audio")
    assert value(metrics, "errors_total", code="bad_audio") == 1
    metrics.record_first_partial(0.4)
    assert value(metrics, "first_partial_seconds_sum") == 0.4
    metrics.record_final_latency(0.3)
    assert value(metrics, "final_latency_seconds_bucket", le="0.3") == 1
    assert value(metrics, "final_latency_seconds_bucket", le="0.2") == 0


def test_engine() -> None:
    metrics = Metrics()
    metrics.record_engine_up(True)
    metrics.record_step(3, 0.02)
    metrics.record_step(5, 0.04)
    assert value(metrics, "engine_up") == 1
    assert value(metrics, "steps_total") == 2
    assert value(metrics, "rows") == 5
    assert value(metrics, "batch_rows_sum") == 8
    assert value(metrics, "turn_seconds_sum") == pytest.approx(0.06)
    assert value(metrics, "turn_seconds_bucket", le="0.02") == 1
    metrics.record_idle()
    assert value(metrics, "rows") == 0
    metrics.record_partial_dropped("expired")
    assert value(metrics, "partials_dropped_total", reason="expired") == 1
    metrics.record_request_failed("timeout")
    assert value(metrics, "requests_failed_total", code="timeout") == 1
    metrics.record_engine_up(False)
    assert value(metrics, "engine_up") == 0


def test_decoding_is_split_by_kind_and_only_finals_have_a_factor() -> None:
    metrics = Metrics()
    times = {"queue_seconds": 0.1, "decode_seconds": 0.5}
    metrics.record_decoded(is_final=True, audio_seconds=2.0, **times)
    metrics.record_decoded(is_final=False, audio_seconds=2.0, **times)
    metrics.record_decoded(is_final=True, audio_seconds=0.0, **times)
    assert value(metrics, "decode_seconds_count", kind="final") == 2
    assert value(metrics, "decode_seconds_count", kind="partial") == 1
    assert value(metrics, "queue_seconds_count") == 3
    assert value(metrics, "real_time_factor_count") == 1
    assert value(metrics, "real_time_factor_sum") == 0.25


def test_build_says_what_runs_now() -> None:
    metrics = Metrics()
    metrics.record_build(version="1", model="fake")
    metrics.record_build(version="1", model="embedded")
    assert value(metrics, "build_info", version="1", model="fake") is None
    assert value(metrics, "build_info", version="1", model="embedded") == 1


def test_every_label_is_there_from_the_start() -> None:
    metrics = Metrics()
    for code in get_args(ErrorCode):
        assert value(metrics, "errors_total", code=code) == 0
        assert value(metrics, "requests_failed_total", code=code) == 0
    for outcome in get_args(SessionOutcome):
        assert value(metrics, "sessions_ended_total", outcome=outcome) == 0


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.record_step(1, 0.01)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "steps_total") == 2000


def test_what_is_asked_for_is_asked_when_somebody_reads() -> None:
    metrics, values = Metrics(), [0.5, 1.5]
    metrics.watch_queue(lambda: values[0])
    metrics.watch_gpu(lambda: values[1])
    assert (value(metrics, "queue_age_seconds"), value(metrics, "gpu_memory_bytes")) == (0.5, 1.5)
    values[:] = [2.0, 3.0]
    assert (value(metrics, "queue_age_seconds"), value(metrics, "gpu_memory_bytes")) == (2.0, 3.0)


def test_flushes_guard_and_capacity() -> None:
    metrics = Metrics()
    metrics.record_finalised(0.04)
    metrics.record_guard_hit(is_final=True)
    metrics.record_capacity(7)
    assert value(metrics, "finalise_seconds_bucket", le="0.05") == 1
    assert value(metrics, "guard_hits_total", kind="final") == 1
    assert value(metrics, "guard_hits_total", kind="partial") == 0
    assert value(metrics, "sessions_capacity") == 7


def test_the_table_has_a_row_for_each() -> None:
    rows = render_markdown().splitlines()[2:]
    assert len(rows) == len(list(Metrics().registry.collect()))
    assert (
        "| `diffscribe_errors_total` | counter | `code` | Errors sent to clients, by code. |"
        in rows
    )

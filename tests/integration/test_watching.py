"""Every metric of the documentation moves in a real run when it should; log lines name sessions."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from stream_server.config import LimitsConfig, SchedulerConfig
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.recogniser.interface import Hypothesis, RecogniserInfo, Row
from stream_server.server import Server

SERVE = "from stream_server.cli import main; main(['serve', *__import__('sys').argv[1:]])"
FAST = {"partial_interval_ms": 100}
PAGE = Path(__file__).parents[2] / "stream_server" / "README.md"
BAD = 0.75
"""A sample that this model cannot bear."""
ONLY_ON_A_GPU = {"diffscribe_gpu_memory_bytes"}
GAUGES = {"diffscribe_sessions", "diffscribe_rows", "diffscribe_queue_age_seconds"}
"""That are 0 again at the end, and so are looked at meanwhile."""


@dataclass(slots=True)
class Watched(FakeRecogniser):
    """A fake that takes its time, guards every text, and breaks on one sample."""

    info: RecogniserInfo = replace(FAKE_INFO, max_rows=1)
    step_seconds: float = 0.03

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        if any(BAD in row.utterance.pcm for row in rows):
            raise RuntimeError("CUDA error")
        found = FakeRecogniser.step(self, rows)
        return [replace(each, is_guarded=True) if each.is_final else each for each in found]


def documented() -> set[str]:
    """Return the metrics of the table."""
    return set(re.findall(r"^\| `(diffscribe_\w+)` ", PAGE.read_text("utf-8"), re.MULTILINE))


async def scrape(server: Server) -> dict[str, float]:
    """Return every series, labels in the name; of a histogram its count."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.url}/metrics")).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_count")
            if not name.endswith(("_bucket", "_sum", "_created")):
                found[name] = found.get(name, 0.0) + sample.value
    return found


async def test_every_metric_that_is_documented_moves(running, talk, voice) -> None:
    limits = LimitsConfig(max_sessions=2)
    bad = voice()[:20_000] + (int(BAD * 32768)).to_bytes(2, "little") * 800 + voice()[20_000:]
    with running(limits, load=lambda _: Watched(), scheduler=SchedulerConfig()) as server:
        before = await scrape(server)
        seen: dict[str, float] = {}

        async def look() -> dict[str, float]:
            now = await scrape(server)
            seen.update({name: max(seen.get(name, 0.0), value) for name, value in now.items()})
            return now

        async with talk(server, FAST) as one, talk(server, FAST) as other:
            for first in range(0, len(voice()), 3200):
                for conversation in (one, other):
                    await conversation.say(voice()[first : first + 3200])
                await asyncio.sleep(0.05)
                await look()
            for conversation in (one, other):
                await conversation.say({"type": "flush"})
                await conversation.hear("flushed")
            for tenths in range(1, 30):  # a flush that overtakes a partial
                await other.say(voice()[:30_000])
                await asyncio.sleep(tenths % 5 / 10)
                await other.say({"type": "flush"})
                await look()
                await other.hear("flushed")
                if (await look())["diffscribe_partials_dropped_total"]:
                    break
            with pytest.raises(InvalidStatus, match="503"):
                async with talk(server, {}):
                    pass
            await one.say(bad, {"type": "stop"})
            await one.hear_all()
        await asyncio.sleep(0.2)
        after = await scrape(server)
    assert documented() <= set(after)
    still = {
        name
        for name in documented() - ONLY_ON_A_GPU
        if max(seen.get(name, 0.0), after[name]) <= (0 if name in GAUGES else before[name])
    }
    # These were set when the server got ready, and say what is so.
    assert still == {
        "diffscribe_build_info", "diffscribe_engine_up", "diffscribe_sessions_capacity",
    }  # fmt: skip
    assert after["diffscribe_build_info"] == after["diffscribe_engine_up"] == 1
    assert after["diffscribe_sessions_capacity"] >= 1
    assert after["diffscribe_sessions"] == after["diffscribe_queue_age_seconds"] == 0


class Collector(BaseHTTPRequestHandler):
    """What OpenTelemetry sends to, in memory."""

    protocol_version = "HTTP/1.1"
    spans: ClassVar[list[tuple[str, str, dict[str, str]]]]
    metrics: ClassVar[set[str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for span in resource.scope_spans[0].spans:
                    known = {each.key: each.value.string_value for each in span.attributes}
                    self.spans.append((span.name, span.trace_id.hex(), known))
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics.update(each.name for each in resource.scope_metrics[0].metrics)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    """Runs a collector, and points OpenTelemetry's own variables at it."""

    class Mine(Collector):
        spans: ClassVar[list[tuple[str, str, dict[str, str]]]] = []
        metrics: ClassVar[set[str]] = set()

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{web.server_port}")
        yield Mine
        web.shutdown()
        thread.join()


async def test_spans_and_metrics_of_a_real_run(running, talk, voice, collector) -> None:
    with running(otel=True) as server:
        async with talk(server, {}) as conversation:
            await conversation.say(voice(), {"type": "stop"})
            heard, _ = await conversation.hear_all()
    session = heard[0]["session"]
    (whole,) = (each for each in collector.spans if each[0] == "session")
    assert whole[2] == {"diffscribe.session": session, "diffscribe.outcome": "completed"}
    mine = [name for name, trace, _ in collector.spans if trace == whole[1]]
    assert mine.count("utterance") >= 1
    assert mine.count("queue") == mine.count("encode") == mine.count("steps")
    said = {value for _, _, known in collector.spans for value in known.values()}
    assert said == {session, "completed", ""}  # no text
    assert {"diffscribe_sessions", "diffscribe_final_latency_seconds_count"} <= collector.metrics


def test_every_line_about_a_session_names_it(tmp_path: Path) -> None:
    """Of a process of its own, since logging is the process's."""
    log = tmp_path / "log"
    environ = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    with log.open("w") as errors:
        command = [sys.executable, "-c", SERVE, "--port", "0", "--model", "fake"]
        server = subprocess.Popen(
            [*command, "--log-level", "debug"],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environ,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            url = next(m[1] for line in server.stdout if (m := re.search(r"on http(\S+)", line)))
            sessions = _converse(f"ws{url}")
        finally:
            server.terminate()
            server.wait(20)
            server.stdout.close()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
    for session, outcome in sessions.items():
        mine = [line for line in lines if line.get("session") == session]
        assert [line["event"] for line in mine if line["event"].startswith("session ")] == [
            "session began",
            f"session ended: {outcome}",
        ]
    named = ("stream_server.session", "stream_server.scheduler", "stream_server.transports")
    assert [
        line for line in lines if line["logger"].startswith(named) and not line.get("session")
    ] == []


def _converse(url: str) -> dict[str, str]:
    """Hold a good and a bad conversation; return their sessions and how each ended."""
    found = {}
    for frames, outcome in (
        (['{"type":"stop"}'], "completed"),
        ([b"fLaC" + bytes(500), '{"type":"stop"}'], "failed"),
    ):
        with connect(f"{url}/v1/stream") as socket:
            socket.send('{"type":"start"}')
            found[json.loads(socket.recv())["session"]] = outcome
            with contextlib.suppress(ConnectionClosed):
                for frame in frames:
                    socket.send(frame)
                for _ in socket:
                    pass
    return found

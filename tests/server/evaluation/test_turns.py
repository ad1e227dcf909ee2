"""A server's own count of its turns, between two looks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stream_server.evaluation.turns import Turns, TurnWatch
from stream_server.metrics import Metrics


@pytest.fixture
def served() -> Iterator[tuple[Metrics, str]]:
    """Metrics, and the address of the server that shows them."""
    metrics = Metrics()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(metrics.render())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield metrics, f"ws://127.0.0.1:{server.server_port}/v1/stream"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_look_tells_of_the_turns_since_the_last_one(served: tuple[Metrics, str]) -> None:
    metrics, url = served
    metrics.record_step(9, 1.0)
    watch = TurnWatch(url)
    assert watch.look() == Turns(0, 0.0, 0.0)
    metrics.record_step(1, 0.010)
    metrics.record_step(4, 0.020)
    assert watch.look() == Turns(2, 15.0, 2.5)
    assert watch.look() == Turns(0, 0.0, 0.0)


def test_a_server_that_does_not_tell_is_none(served: tuple[Metrics, str]) -> None:
    metrics, url = served
    watch = TurnWatch(url)
    metrics.record_step(1, 0.010)
    closed = TurnWatch("ws://127.0.0.1:9/v1/stream")
    assert closed.look() is None
    assert watch.look() == Turns(1, 10.0, 1.0)

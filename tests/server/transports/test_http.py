"""Probes, metrics and the index; hostile requests are in tests/integration/hostile."""

from __future__ import annotations

import httpx
import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.http import STREAM_PATH, UPLOAD_PATH, WebParts, make_app
from stream_server.transports.hub import Hub
from stream_server.transports.offer import OFFER_PATH
from stream_server.transports.whip import WHIP_PATH


def parts(admission: Admission, *origins: str) -> WebParts:
    hub = Hub(10)
    return WebParts(hub, Calls(admission, hub, LimitsConfig()), origins)


def client(admission: Admission, *keys: str) -> httpx.AsyncClient:
    app = make_app(admission, Keys(keys), Metrics(), LimitsConfig(), "9.9", parts(admission))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_probes_follow_the_life_of_the_server(make_services) -> None:
    admission, is_up = Admission(3), True
    async with client(admission) as http:

        async def probe() -> tuple[int, str, int]:
            answer = await http.get("/readyz")
            assert (await http.get("/healthz")).status_code == 200
            return answer.status_code, answer.json()["status"], answer.json()["sessions"]

        assert await probe() == (503, "loading", 0)
        admission.open(make_services(), lambda: is_up)
        assert await probe() == (200, "ready", 0)
        with admission.admit():
            assert await probe() == (200, "ready", 1)
        is_up = False
        assert await probe() == (503, "broken", 0)
        admission.close()
        assert await probe() == (503, "draining", 0)


async def test_who_is_inside_is_counted(make_services) -> None:
    admission = Admission(3)
    admission.open(make_services(), lambda: True)

    class Sitter:
        async def dismiss(self, error: Exception) -> None: ...

    async with client(admission) as http:
        with admission.admit(Sitter()), admission.admit():
            admission.close()
            answer = await http.get("/drain")
            assert answer.status_code == 200
            assert answer.json() == {"status": "draining", "sessions": 1, "uploads": 1}
        assert (await http.get("/drain")).json()["sessions"] == 0


async def test_the_index_says_what_is_here(make_services) -> None:
    admission = Admission(3)
    admission.open(make_services(), lambda: True)
    async with client(admission) as http:
        index = (await http.get("/")).json()
    assert (index["name"], index["version"], index["model"]) == ("diffscribe", "9.9", "fake")
    assert {STREAM_PATH, UPLOAD_PATH, WHIP_PATH, OFFER_PATH, "/metrics"} <= set(index["endpoints"])


async def test_metrics_are_prometheus() -> None:
    async with client(Admission(1)) as http:
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "diffscribe_sessions 0.0" in answer.text


@pytest.mark.parametrize("path", ["/", "/drain", "/metrics", UPLOAD_PATH])
async def test_all_but_the_probes_want_a_key(path: str) -> None:
    async with client(Admission(1), "sesame") as http:
        method = "POST" if path == UPLOAD_PATH else "GET"
        assert (await http.request(method, path)).status_code == 401
        assert (await http.request(method, path + "?api_key=sesame")).status_code != 401
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503


async def test_a_websocket_elsewhere_is_told_where() -> None:
    app = make_app(Admission(1), Keys(()), Metrics(), LimitsConfig(), "9.9", parts(Admission(1)))
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": "/v1/nowhere", "headers": [], "query_string": b"",
        "server": ("host", 80), "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    await app(scope, None, send)
    assert sent[0]["status"] == 404
    assert STREAM_PATH.encode() in sent[1]["body"]


async def test_pages_elsewhere_are_let_in_where_they_are_named() -> None:
    app = make_app(
        Admission(1), Keys(("k",)), Metrics(), LimitsConfig(), "9.9",
        parts(Admission(1), "https://a.example"),
    )  # fmt: skip
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        for path in (WHIP_PATH, OFFER_PATH, UPLOAD_PATH):
            answer = await http.options(path, headers={"Origin": "https://a.example", **ask})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            other = await http.options(path, headers={"Origin": "https://b.example", **ask})
            assert "access-control-allow-origin" not in other.headers
        answer = await http.post(WHIP_PATH, headers={"Origin": "https://a.example"})
        assert "Location" in answer.headers["access-control-expose-headers"]

"""Viewers over HTTP; over real sockets in tests/integration/test_viewers.py."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import webvtt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from stream_protocol.messages import Done, Final, Notice, Timings, Word
from stream_server.keyring import make_key
from stream_server.transports import viewers
from stream_server.transports.answers import refuse_http
from stream_server.transports.auth import Keys
from stream_server.transports.hub import Hub
from stream_server.transports.viewers import CAPTIONS_PATH, EVENTS_PATH, WATCH_PATH, routes


def final(segment: int, text: str, start: int) -> Final:
    words = [Word(text, start, start + 8000, 1.0)]
    times = Timings(1, 1, 1, 1)
    return Final(segment, 0, 1, text, start, start + 16000, "en", 1.0, words, times)


@pytest.fixture
async def hub() -> Hub:
    return Hub(10)


@pytest.fixture
async def http(hub: Hub) -> httpx.AsyncClient:
    app = Starlette(
        routes=routes(hub, Keys(["k"])), exception_handlers={HTTPException: refuse_http}
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://t", headers={"X-API-Key": "k"}
    )


def events(session: str) -> str:
    return EVENTS_PATH.format(session=session)


async def test_events_go_on_from_where_a_viewer_was(hub: Hub, http: httpx.AsyncClient) -> None:
    hub.publish("s", final(0, "one", 0))
    hub.publish("s", final(1, "two", 16000))
    hub.publish("s", Done(1, 2))
    hub.leave("s")
    answer = await http.get(events("s"))
    assert answer.headers["content-type"].startswith("text/event-stream")
    ids = [line for line in answer.text.splitlines() if line.startswith("id:")]
    assert ids == ["id: s:1", "id: s:2", "id: s:3"]
    for last in ({"Last-Event-ID": "s:1"}, {}):
        query = "" if last else "?last_event_id=s:1"
        answer = await http.get(events("s") + query, headers=last)
        assert "id: s:1\n" not in answer.text
        assert '"two"' in answer.text
    assert (await http.get(events("s"), headers={"Last-Event-ID": "s:3"})).status_code == 204
    for other in ("t:3", "3", "s:", "s:" + "9" * 99, "\xff"):
        answer = await http.get(events("s"), headers={"Last-Event-ID": other.encode("latin-1")})
        assert "id: s:1\n" in answer.text


async def test_a_quiet_stream_is_kept_open(hub: Hub, http: httpx.AsyncClient, monkeypatch) -> None:
    monkeypatch.setattr(viewers, "_KEEP_ALIVE_SECONDS", 0.01)
    hub.open("s")
    reading = asyncio.create_task(http.get(events("s")))
    await asyncio.sleep(0.1)
    hub.publish("s", Notice("c", "m"))
    hub.leave("s")
    text = (await reading).text
    assert ": still here\n\n" in text
    assert text.endswith("\n\n")


async def test_a_viewer_that_fell_behind_is_let_go(hub: Hub, http: httpx.AsyncClient) -> None:
    hub.publish("s", final(0, "first", 0))
    log = hub.find("s")
    assert log is not None
    stream = viewers._server_sent(log, 0)
    assert (await anext(stream)).startswith("retry:")
    assert "first" in await anext(stream)
    for number in range(1, 30):
        hub.publish("s", final(number, "more", 0))
    assert [piece async for piece in stream] == []


async def test_captions_of_a_running_session(hub: Hub, http: httpx.AsyncClient) -> None:
    path = CAPTIONS_PATH.format(session="s")
    hub.open("s")
    assert (await http.get(f"{path}.vtt")).text.strip() == "WEBVTT"
    hub.publish("s", final(1, "later", 32000))
    hub.publish("s", final(0, "earlier & <so>", 0))
    answer = await http.get(f"{path}.vtt")
    assert answer.headers["content-type"].startswith("text/vtt")
    captions = webvtt.from_string(answer.text)
    assert [each.text for each in captions] == ["earlier &amp; &lt;so&gt;", "later"]
    answer = await http.get(f"{path}.srt")
    assert "00:00:02,000 --> 00:00:02,500" in answer.text or "later" in answer.text
    assert (await http.get(f"{path}.txt")).status_code == 404


@pytest.mark.parametrize("path", [EVENTS_PATH, f"{CAPTIONS_PATH}.vtt", f"{CAPTIONS_PATH}.srt"])
async def test_strangers_and_unknown_sessions(http: httpx.AsyncClient, path: str) -> None:
    path = path.format(session="no")
    assert (await http.get(path, headers={"X-API-Key": "wrong"})).status_code == 401
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_token_for_one_session_watches_no_other(hub: Hub) -> None:
    keys = Keys(["k"])
    app = Starlette(routes=routes(hub, keys), exception_handlers={HTTPException: refuse_http})
    for session in ("s", "t"):
        hub.publish(session, Done(1, 0))
        hub.leave(session)
    hub.open("named", "stage", "api-key")
    hub.publish("named", Done(1, 0))
    hub.leave("named")
    key = keys.check(HTTPConnection(header("k"))).key
    token = keys.make_token(key, ("watch",), 60, "s").value
    stage = keys.make_token(key, ("watch",), 60, "stage").value
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://t", headers={"X-API-Key": token}
    ) as http:
        assert (await http.get(events("s"))).status_code == 200
        assert (await http.get(events("t"))).status_code == 401
        http.headers["X-API-Key"] = stage
        assert (await http.get(events("stage"))).status_code == 200
        assert (await http.get(events("named"))).status_code == 401


async def test_a_name_is_known_to_the_holders_of_its_owners_key_alone(hub: Hub, tmp_path) -> None:
    keys_file = tmp_path / "keys.toml"
    ann, bob = make_key(keys_file, "ann"), make_key(keys_file, "bob")
    app = Starlette(
        routes=routes(hub, Keys(["k"], keys_file)), exception_handlers={HTTPException: refuse_http}
    )
    hub.open("named", "stage", "ann")
    hub.publish("named", Done(1, 0))
    hub.leave("named")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        for key, status in ((ann, 200), (bob, 404), ("k", 404)):
            answer = await http.get(events("stage"), headers={"X-API-Key": key})
            assert answer.status_code == status


async def test_a_viewer_that_takes_nothing_is_let_go(hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr(viewers, "_SEND_SECONDS", 0.05)
    hub.publish("s", Notice("x", "y"))
    closed: list[tuple[int, str]] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()
        if message["type"] == "websocket.close":
            closed.append((message["code"], message["reason"]))  # type: ignore[arg-type]

    asked = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, object]:
        return next(asked, None) or await asyncio.Event().wait()  # type: ignore[return-value]

    app = Starlette(routes=routes(hub, Keys(["k"])))
    scope = {**header("k"), "type": "websocket", "path": WATCH_PATH.format(session="s")}
    async with asyncio.timeout(5):
        await app({**scope, "subprotocols": []}, receive, send)  # type: ignore[arg-type]
    assert closed == [(1013, "timeout")]


def header(key: str) -> dict[str, object]:
    return {"type": "http", "headers": [(b"x-api-key", key.encode())], "query_string": b""}

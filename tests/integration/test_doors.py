"""Nobody gets in without a key: every route there is, found in the application itself.

A new route is in these tests by being there. What is open to everyone is named here, and only here.
"""

from __future__ import annotations

import ssl
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from stream_server.config import KeysConfig, LimitsConfig
from stream_server.keyring import digest, make_key
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.http import PROBES, WebParts, make_app
from stream_server.transports.hub import Hub
from stream_server.transports.tokens import Grant, Scope, Tokens

SECRET = "s" * 32
PAGES = ("/overlay", "/web/page.js")
"""Plain files of the client package: people need the page to type their key into."""
PREFLIGHTS = {("OPTIONS", "/whip"), ("OPTIONS", "/whip/x"), ("OPTIONS", "/whip/sessions/x")}
"""Asked by browsers before a request, without a key (Fetch, 4.8); answered with no content."""


@dataclass(frozen=True, order=True)
class Door:
    """One way to ask something of the server."""

    method: str
    """``WS`` is an upgrade."""
    path: str


def _walk(routes: list[BaseRoute], prefix: str = "") -> Iterator[Door]:
    for route in routes:
        match route:
            case Mount():
                assert prefix + route.path == "/web", "only the files of the page are mounted"
                yield Door("GET", "/web/page.js")
            case WebSocketRoute():
                yield Door("WS", prefix + _fill(route))
            case Route():
                for method in route.methods or {"GET"}:
                    yield Door(method, prefix + _fill(route))
            case _:
                raise AssertionError(f"{route} is of a kind that this test does not know")


def _fill(route: Route | WebSocketRoute) -> str:
    return route.path_format.format(**dict.fromkeys(route.param_convertors, "x"))


def _doors() -> list[Door]:
    admission, hub = Admission(1), Hub(10)
    parts = WebParts(hub, Calls(admission, hub, LimitsConfig()))
    app = make_app(admission, Keys(["k"]), Metrics(), LimitsConfig(), "1", parts)
    return sorted(set(_walk(app.routes)))


DOORS = _doors()
OPEN = {Door(method, path) for method in ("GET", "HEAD") for path in (*PROBES, *PAGES)}
PREFLIGHT = {Door(*each) for each in PREFLIGHTS}
LOCKED = [door for door in DOORS if door not in OPEN | PREFLIGHT]


@pytest.fixture(scope="module")
def server(running, tmp_path_factory) -> Iterator[Any]:
    """A server with a plain key, and one from a file."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    secret = make_key(file, "stage")
    with running(keys=("sesame",), more_keys=KeysConfig(str(file), SECRET)) as server:
        server.secret = secret
        yield server


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    """Made once: it takes longer than a request."""
    return ssl.create_default_context()


@pytest.fixture
async def http(server, context) -> AsyncIterator[httpx.AsyncClient]:
    """A client that wants no page."""
    accept = {"Accept": "application/json"}
    async with httpx.AsyncClient(base_url=server.url, verify=context, headers=accept) as http:
        yield http


async def knock(http: httpx.AsyncClient, door: Door, **headers: str) -> tuple[int, bytes]:
    """Ask, and return status and body; 101 for an upgrade."""
    if door.method != "WS":
        answer = await http.request(door.method, door.path, headers=headers)
        return answer.status_code, answer.content
    url = str(http.base_url).rstrip("/").replace("http", "ws", 1) + door.path
    try:
        async with connect(url, additional_headers=headers, compression=None):
            return 101, b""
    except InvalidStatus as error:
        return error.response.status_code, error.response.body or b""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def token(*scopes: Scope, key: str = "sesame", seconds: int = 60, now: float | None = None) -> str:
    """Return what a server with the same secret would make of a key."""
    tokens = Tokens(SECRET, lambda: time.time() if now is None else now)
    return tokens.make(Grant(tokens.mark(digest(key)), scopes), seconds).value


def test_the_doors_are_those_of_every_api() -> None:
    assert PREFLIGHT | OPEN - {Door("HEAD", "/web/page.js")} <= set(DOORS), "named, but not there"
    paths = {door.path for door in LOCKED}
    for path in ("/v1/stream", "/v1/realtime", "/v1/listen", "/v2/listen", "/v3/ws", "/v2", "/",
                 "/vosk", "/whip", "/v1/webrtc/offer", "/v1/audio/transcriptions", "/v1/models",
                 "/v1/tokens", "/metrics", "/v1/sessions/x/watch"):  # fmt: skip
        assert path in paths


INTRUDERS: dict[str, dict[str, str]] = {
    "no key": {},
    "an empty key": {"X-API-Key": ""},
    "a wrong key": bearer("sesam"),
    "the hash of the key": bearer(digest("sesame").hex()),
    "basic authentication": {"Authorization": "Basic c2VzYW1lOnNlc2FtZQ=="},
    "an expired token": bearer(token("session", "file", "watch", now=time.time() - 3600)),
    "a token of a withdrawn key": bearer(token("session", "file", "watch", key="withdrawn")),
    "a token of another server": bearer(
        Tokens("t" * 32).make(Grant("", ("session", "file", "watch")), 60).value
    ),
}


@pytest.mark.alone
@pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda name: name.replace(" ", "-"))
async def test_no_door_opens_without_a_right_key(http, intruder: str) -> None:
    seconds = []
    for door in LOCKED:
        began = time.monotonic()
        status, body = await knock(http, door, **INTRUDERS[intruder])
        seconds.append(time.monotonic() - began)
        assert status == 401, (door, status, body)
        assert b"diffscribe" not in body
    assert statistics.median(seconds) < 0.1, "a refusal comes at once"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil:1"])
async def test_no_door_opens_to_a_foreign_page_with_any_key(http, origin: str) -> None:
    for door in [*LOCKED, *PREFLIGHT, *(each for each in OPEN if each.path in PAGES)]:
        status, body = await knock(http, door, Origin=origin, **bearer("sesame"))
        assert status == 403, (door, status, body)


async def test_the_probes_answer_everyone_and_say_little(http) -> None:
    for path in PROBES:
        status, body = await knock(http, Door("GET", path), Origin="https://evil.example")
        assert status == 200
        assert set(httpx.Response(200, content=body).json()) <= {
            "status", "model", "sessions", "max_sessions",
        }  # fmt: skip


async def test_preflights_say_nothing(http) -> None:
    for door in PREFLIGHT:
        answer = await http.request(door.method, door.path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert "link" not in answer.headers


async def test_the_pages_are_files_and_nothing_of_the_server(http) -> None:
    folder = Path(str(files("stream_client"))) / "web"
    for path, name in (("/overlay", "overlay.html"), ("/web/page.js", "page.js")):
        assert (await knock(http, Door("GET", path)))[1] == (folder / name).read_bytes()
    answer = await http.get("/", headers={"Accept": "text/html"})
    assert answer.content == (folder / "index.html").read_bytes()


async def test_every_door_opens_with_a_key(server, http) -> None:
    for key in ("sesame", server.secret):
        for door in LOCKED:
            status, body = await knock(http, door, **bearer(key))
            assert status not in (401, 403, 404, 405) or b"no such session" in body or (
                "model_not_found" in body.decode() or door.method == "HEAD"
            ), (door, status, body)  # fmt: skip


SESSION = {
    *(("WS", path) for path in ("/", "/v1/listen", "/v1/realtime", "/v1/stream", "/v2",
                                "/v2/listen", "/v3/ws", "/vosk", "/vosk/x",
                                "/streaming-whisper/ws/x")),
    ("POST", "/v1/webrtc/offer"), ("GET", "/v1/webrtc/ice"), ("HEAD", "/v1/webrtc/ice"),
    ("POST", "/whip"), ("POST", "/whip/x"),
    ("PATCH", "/whip/sessions/x"), ("DELETE", "/whip/sessions/x"),
}  # fmt: skip
FILE = {("POST", "/v1/audio/transcriptions"), ("POST", "/v1/listen")}
WATCH = {
    ("WS", "/v1/sessions/x/watch"),
    *((method, f"/v1/sessions/x/{name}") for method in ("GET", "HEAD")
      for name in ("events", "captions.srt", "captions.vtt")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "doors"), [("session", SESSION), ("file", FILE), ("watch", WATCH)]
)
async def test_a_token_opens_what_it_is_for(
    http, scope: Scope, doors: set[tuple[str, str]]
) -> None:
    opened = set()
    for door in LOCKED:
        status, _ = await knock(http, door, **bearer(token(scope)))
        if status != 401:
            opened.add((door.method, door.path))
    assert opened == doors

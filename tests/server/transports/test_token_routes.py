"""Tokens are made as each API's clients ask for them, by holders of a key alone."""

from __future__ import annotations

import time

import httpx
import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.http import make_app
from stream_server.transports.tokens import Tokens

ROUTES = [
    ("POST", "/v1/tokens"),
    ("POST", "/v1/auth/grant"),
    ("GET", "/v3/token?expires_in_seconds=60"),
    ("POST", "/v1/api_keys?type=rt"),
]


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def http():
    """A client of an application with the key ``sesame``."""
    tokens = Tokens(clock=Clock())
    app = make_app(Admission(1), Keys(["sesame"], tokens=tokens), Metrics(), LimitsConfig(), "9.9")
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://test",
        headers={"Authorization": "Bearer sesame"},
    )
    client.tokens = tokens  # type: ignore[attr-defined]
    return client


async def test_our_own(http) -> None:
    body = {"scopes": ["session", "file"], "seconds": 120}
    answer = await http.post("/v1/tokens", json=body)
    made = answer.json()
    assert made["scopes"] == ["session", "file"]
    assert made["expires_at"] == int(Clock.now) + 120
    assert answer.headers["cache-control"] == "no-store"
    assert http.tokens.open(made["token"]).scopes == ("session", "file")
    plain = (await http.post("/v1/tokens")).json()
    assert plain["scopes"] == ["session"]
    assert plain["expires_at"] == int(Clock.now) + 60
    body = {"scopes": ["watch"], "session": "stage"}
    watch = (await http.post("/v1/tokens", json=body)).json()
    assert http.tokens.open(watch["token"]).watched == "stage"


async def test_deepgrams_assemblyais_and_speechmatics(http) -> None:
    answer = await http.post("/v1/auth/grant", json={"ttl_seconds": 45})
    assert answer.json()["expires_in"] == 45
    assert http.tokens.open(answer.json()["access_token"]).scopes == ("session", "file")
    assert "dg-request-id" in answer.headers
    assert (await http.post("/v1/auth/grant")).json()["expires_in"] == 30
    made = (await http.get("/v3/token", params={"expires_in_seconds": 60, "x": "y"})).json()
    assert made["expires_in_seconds"] == 60
    assert http.tokens.open(made["token"]).scopes == ("session",)
    answer = await http.post("/v1/api_keys?type=rt", json={"ttl": 60, "region": "eu"})
    assert answer.status_code == 201
    assert http.tokens.open(answer.json()["key_value"]).scopes == ("session",)


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/v1/tokens", b"{", "not JSON"),
        ("POST", "/v1/tokens", b"[]", "object"),
        ("POST", "/v1/tokens", b"[" * 4000, "not JSON"),
        ("POST", "/v1/tokens", b'{"scopes": []}', "length >= 1"),
        ("POST", "/v1/tokens", b'{"scopes": ["all"]}', "all"),
        ("POST", "/v1/tokens", b'{"seconds": 0}', ">= 1"),
        ("POST", "/v1/tokens", b'{"seconds": 90000}', "<= 86400"),
        ("POST", "/v1/tokens", b'{"seconds": "60"}', "`int`"),
        ("POST", "/v1/tokens", b'{"second": 60}', "second"),
        ("POST", "/v1/tokens", b'{"session": "stage"}', "'watch'"),
        ("POST", "/v1/tokens", b'{"scopes": ["watch"], "session": "../x"}', "regex"),
        ("POST", "/v1/auth/grant", b'{"ttl_seconds": 4000}', "<= 3600"),
        ("GET", "/v3/token", b"", "expires_in_seconds"),
        ("GET", "/v3/token?expires_in_seconds=601", b"", "<= 600"),
        ("GET", "/v3/token?expires_in_seconds=x", b"", "`int`"),
        ("POST", "/v1/api_keys?type=rt", b'{"ttl": 1}', ">= 60"),
    ],
)
async def test_what_is_wrong_is_told(http, method, path, body, said) -> None:
    answer = await http.request(method, path, content=body)
    assert answer.status_code == 400
    assert said in answer.text


async def test_a_long_body_is_not_read(http) -> None:
    assert (await http.post("/v1/tokens", content=b" " * 5000)).status_code == 413


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_token_makes_no_other(http, method: str, path: str) -> None:
    made = (await http.post("/v1/tokens", json={"scopes": ["session", "file", "watch"]})).json()
    for key in ("wrong", made["token"], ""):
        answer = await http.request(method, path, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/auth/grant", "err_code", "INVALID_AUTH"),
        ("/v3/token?expires_in_seconds=60", "error_code", 4001),
    ],
)
async def test_refusals_have_the_apis_form(http, path: str, name: str, value: object) -> None:
    method = "POST" if "grant" in path else "GET"
    answer = await http.request(method, path, headers={"Authorization": "wrong"})
    assert answer.json()[name] == value

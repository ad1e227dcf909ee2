"""Pages of strangers stay outside, whatever name they come under; programs do not notice."""

from __future__ import annotations

import socket

import pytest
from starlette.datastructures import Headers

from stream_server.transports.origin import OriginGuard


async def served(scope: dict[str, object], receive: object, send: object) -> None:
    scope["served"] = True


def judge(guard: OriginGuard, host: str = "h:8000", origin: str | None = None) -> str | None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    return guard.judge(Headers(headers))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("h:8000", None),
        ("h:8000", "http://h:8000"),
        ("H:8000", "https://h:8000"),
        ("captions.example", "https://captions.example"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("h:8000", "https://friend.example"),
        ("h:8000", "https://Friend.example"),
        ("h:8000", "chrome-extension://abc"),
    ],
)
def test_programs_own_pages_and_friends_are_let_in(host: str, origin: str | None) -> None:
    guard = OriginGuard(served, ["https://friend.example", "chrome-extension://abc"])  # type: ignore[arg-type]
    assert judge(guard, host, origin) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("h:8000", "https://evil.example"),
        ("h:8000", "http://h:9000"),
        ("h:8000", "http://h"),
        ("h:8000", "http://h:8000.evil.example"),
        ("h:8000", "http://evil.example@h:8000"),
        ("h:8000", "null"),
        ("h:8000", ""),
        ("", "http://"),
        ("h:8000", "http://[h:8000"),
        ("h:8000", "https://friend.example.evil.example"),
        ("h:8000", "http://friend.example"),
    ],
)
def test_strangers_are_not(host: str, origin: str) -> None:
    guard = OriginGuard(served, ["https://friend.example"])  # type: ignore[arg-type]
    assert "--allow-origin" in (judge(guard, host, origin) or "")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("localhost", True),
        ("studio:8000", True),
        ("a.localhost:8000", True),
        ("192.168.1.2:8000", True),
        (f"{socket.gethostname()}:8000", True),
        (f"{socket.gethostname()}.local", True),
        ("friend.example:8000", True),
        ("evil.example:8000", False),
        ("evil.example.:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[evil", False),
    ],
)
def test_an_open_server_goes_by_its_own_names_alone(host: str, is_ours: bool) -> None:
    guard = OriginGuard(served, ["https://friend.example:8000"], knows_names=True)  # type: ignore[arg-type]
    assert (judge(guard, host) is None) is is_ours
    assert (judge(guard, host, f"http://{host}") is None) is is_ours
    assert judge(OriginGuard(served), host) is None  # type: ignore[arg-type]


def test_any_may_be_allowed() -> None:
    guard = OriginGuard(served, ["*"], knows_names=True)  # type: ignore[arg-type]
    assert judge(guard, "evil.example", "null") is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_answer_is_403_before_any_route(kind: str) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": kind, "path": "/x", "headers": [(b"origin", b"http://evil"), (b"host", b"h")],
        "extensions": {"websocket.http.response": {}}, "method": "GET",
    }  # fmt: skip
    await OriginGuard(served, (), ["/open"])(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 403
    assert b"foreign_origin" in sent[1]["body"]  # type: ignore[operator]
    assert "served" not in scope
    for path, own in (("/open", scope), ("/x", {**scope, "headers": [(b"host", b"h")]})):
        own = {**own, "path": path}
        await OriginGuard(served, (), ["/open"])(own, None, send)  # type: ignore[arg-type]
        assert own["served"]
    assert len(sent) == 2

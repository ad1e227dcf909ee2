"""Bodies of requests."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from stream_server.errors import DeadlineExceeded, TooLarge
from stream_server.transports import body
from stream_server.transports.body import read_body


def request(kind: str | None, *pieces: bytes) -> Request:
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces] + [
        {"type": "http.request", "body": b"", "more_body": False}
    ]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def test_a_body_is_read_whole() -> None:
    asked = request("Application/SDP; charset=utf-8", b"v=", b"0")
    assert await read_body(asked, 3, "application/sdp") == b"v=0"


@pytest.mark.parametrize("kind", [None, "", "text/plain"])
async def test_another_type_is_refused(kind: str | None) -> None:
    with pytest.raises(HTTPException) as caught:
        await read_body(request(kind, b"v=0"), 3, "application/sdp")
    assert caught.value.status_code == 415


async def test_any_type_may_be_good_enough() -> None:
    assert await read_body(request(None, b"v=0"), 3) == b"v=0"


async def test_a_long_body_is_refused() -> None:
    with pytest.raises(TooLarge, match="3 bytes"):
        await read_body(request("a/b", b"v=", b"00"), 3)


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(body, "_SECONDS", 0.1)

    async def drip() -> dict[str, object]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"", "more_body": True}

    asked = Request({"type": "http", "method": "POST", "headers": []}, drip)
    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded, match="did not come"):
            await read_body(asked, 3)

"""Frames in and out of an accepted WebSocket."""

from __future__ import annotations

import asyncio

import pytest
from starlette.websockets import WebSocket

from stream_server.errors import TooLarge
from stream_server.transports.socket import Socket


class Wire:
    """Both ends of an ASGI WebSocket, without a socket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.sent: list[dict[str, object]] = []
        self.is_broken = False

    async def send(self, message: dict[str, object]) -> None:
        if self.is_broken:
            raise OSError("broken pipe")
        self.sent.append(message)


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def socket(wire: Wire) -> Socket:
    websocket = WebSocket({"type": "websocket"}, wire.incoming.get, wire.send)
    wire.incoming.put_nowait({"type": "websocket.connect"})
    await websocket.accept()
    return Socket(websocket, 100)


async def test_text_and_bytes_come_as_they_are(wire: Wire, socket: Socket) -> None:
    wire.incoming.put_nowait({"type": "websocket.receive", "text": "é" * 50})
    wire.incoming.put_nowait({"type": "websocket.receive", "text": None, "bytes": b"\0"})
    wire.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    assert await socket.receive() == "é" * 50
    assert await socket.receive() == b"\0"
    assert await socket.receive() is None
    assert await socket.receive() is None
    assert socket.is_gone


@pytest.mark.parametrize("data", [{"bytes": bytes(101)}, {"text": "a" * 101}, {"text": "é" * 51}])
async def test_what_is_too_large_is_refused(wire: Wire, socket: Socket, data) -> None:
    wire.incoming.put_nowait({"type": "websocket.receive", **data})
    with pytest.raises(TooLarge, match="100 are allowed"):
        await socket.receive()


async def test_a_client_that_is_gone_is_told_of(wire: Wire, socket: Socket) -> None:
    wire.is_broken = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await socket.send("x")
    assert socket.is_gone
    await socket.close(1000, "")


async def test_closing_happens_once_with_a_reason_that_fits(wire: Wire, socket: Socket) -> None:
    await socket.close(1008, "ü" * 100)
    await socket.close(1000, "again")
    (close,) = [m for m in wire.sent if m["type"] == "websocket.close"]
    assert (close["code"], close["reason"]) == (1008, "ü" * 61)

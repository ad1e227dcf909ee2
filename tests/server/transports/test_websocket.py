"""Frames to messages and back; whole sessions are in tests/integration."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.websockets import WebSocket

from stream_protocol import messages
from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_server.errors import Draining, TooLarge
from stream_server.transports.websocket import WebSocketPeer

READY = messages.Ready("s", "t", "fake", ["en"], messages.Limits(1000, 1000, 0, 0))


class Wire:
    """Both ends of an ASGI WebSocket, without a socket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.sent: list[dict[str, object]] = []
        self.is_broken = False

    def put(self, *frames: str | bytes | None) -> None:
        for frame in frames:
            if frame is None:
                self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
            else:
                kind = "text" if isinstance(frame, str) else "bytes"
                self.incoming.put_nowait({"type": "websocket.receive", kind: frame})

    async def send(self, message: dict[str, object]) -> None:
        if self.is_broken:
            raise OSError("broken pipe")
        self.sent.append(message)

    def texts(self) -> list[dict[str, object]]:
        return [json.loads(str(m["text"])) for m in self.sent if m["type"] == "websocket.send"]


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def peer(wire: Wire) -> WebSocketPeer:
    websocket = WebSocket({"type": "websocket"}, wire.incoming.get, wire.send)
    wire.incoming.put_nowait({"type": "websocket.connect"})
    await websocket.accept()
    return WebSocketPeer(websocket, 1000)


async def begin(wire: Wire, peer: WebSocketPeer) -> None:
    wire.put('{"type":"start"}')
    assert isinstance(await peer.receive(), messages.Start)
    await peer.send(READY)


async def test_frames_become_messages(wire: Wire, peer: WebSocketPeer) -> None:
    await begin(wire, peer)
    wire.put(b"\0\0", b"", b"", '{"type":"flush","id":"x"}', None)
    assert await peer.receive() == b"\0\0"
    assert await peer.receive() == messages.Flush("x")
    assert await peer.receive() is None
    assert await peer.receive() is None
    assert wire.texts()[0]["type"] == "ready"


async def test_nothing_is_read_between_start_and_ready(wire: Wire, peer: WebSocketPeer) -> None:
    wire.put('{"type":"start"}', b"\0\0")
    await peer.receive()
    waiting = asyncio.create_task(peer.receive())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert wire.incoming.qsize() == 1
    await peer.send(READY)
    assert await waiting == b"\0\0"


@pytest.mark.parametrize(
    ("frame", "code"),
    [("{", "bad_message"), ('{"type":"stop"}', "wrong_state"), (b"\0", "wrong_state")],
)
async def test_what_is_not_legal_is_raised(wire: Wire, peer, frame, code: str) -> None:
    wire.put(frame)
    with pytest.raises(RemoteProtocolError) as caught:
        await peer.receive()
    assert caught.value.code == code
    await peer.send(messages.Error(code, "m", None, False, True))
    assert await peer.receive() is None  # what was on its way after the end is not looked at


@pytest.mark.parametrize("frame", [bytes(1001), '{"type":"flush","id":"' + "x" * 1000 + '"}'])
async def test_the_size_of_a_message_is_bounded(wire: Wire, peer, frame) -> None:
    await begin(wire, peer)
    wire.put(frame)
    with pytest.raises((TooLarge, RemoteProtocolError)) as caught:
        await peer.receive()
    assert isinstance(caught.value, TooLarge) or caught.value.code == "too_large"


async def test_the_server_keeps_to_the_table_itself(wire: Wire, peer: WebSocketPeer) -> None:
    with pytest.raises(LocalProtocolError):
        await peer.send(messages.Done(0, 0))
    assert wire.texts() == []


async def test_a_client_that_is_gone_is_told_of(wire: Wire, peer: WebSocketPeer) -> None:
    await begin(wire, peer)
    wire.is_broken = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await peer.send(messages.Ack(1))
    assert await peer.receive() is None
    await peer.close(1000, "")


async def test_closing_happens_once_with_a_reason_that_fits(wire: Wire, peer) -> None:
    await begin(wire, peer)
    await peer.close(1008, "ü" * 100)
    await peer.close(1000, "again")
    (close,) = [m for m in wire.sent if m["type"] == "websocket.close"]
    assert (close["code"], close["reason"]) == (1008, "ü" * 61)


async def test_dismissing_says_why(wire: Wire, peer: WebSocketPeer) -> None:
    await begin(wire, peer)
    await peer.dismiss(Draining("stops"))
    await peer.dismiss(Draining("stops"))
    assert (wire.texts()[-1]["code"], wire.texts()[-1]["fatal"]) == ("draining", True)
    assert [m["code"] for m in wire.sent if m["type"] == "websocket.close"] == [1012]

"""The shell round a translator; whole conversations are in tests/integration."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from starlette.websockets import WebSocket

from stream_protocol import messages
from stream_protocol.errors import RemoteProtocolError
from stream_server.errors import Draining, TooLarge
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.dialect import (
    Api,
    DialectEndpoint,
    DialectPeer,
    Heard,
    read_control,
)
from stream_server.transports.door import Door
from stream_server.transports.socket import Socket


class Said(msgspec.Struct):
    text: str


class Parrot:
    """A dialect that tells what it hears."""

    def open(self) -> Heard:
        return Heard([messages.Start()], [Said("hello")])

    def hear(self, frame: str | bytes) -> Heard:
        if isinstance(frame, bytes):
            return Heard([frame, messages.Flush()])
        return Heard(replies=[Said(frame), Said("!")])

    def tell(self, message: messages.ServerMessage) -> list[msgspec.Struct]:
        return [Said(type(message).__name__)]

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        return 4000, f"{code} {reason}"


class Wire:
    """Both ends of an ASGI WebSocket, without a socket; the client leaves after its last frame.

    With ``until`` it waits for a message with that in it.
    """

    def __init__(self, *frames: str | bytes, until: str = "", **scope: object) -> None:
        self.until = until
        self.incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        for frame in frames:
            kind = "text" if isinstance(frame, str) else "bytes"
            self.incoming.put_nowait({"type": "websocket.receive", kind: frame})
        if not until:
            self._leave()
        self.sent: list[dict[str, object]] = []
        scope = {"type": "websocket", "headers": [], "query_string": b"", **scope}
        scope["extensions"] = {"websocket.http.response": {}}
        self.websocket = WebSocket(scope, self.incoming.get, self.send)

    def _leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def send(self, message: dict[str, object]) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)
        if self.until and self.until in str(message.get("text")):
            self._leave()

    def texts(self) -> list[str]:
        return [
            json.loads(str(m["text"]))["text"] for m in self.sent if m["type"] == "websocket.send"
        ]


async def accept(wire: Wire) -> DialectPeer:
    await wire.websocket.accept()
    return DialectPeer(Socket(wire.websocket, 1000), Parrot())


async def test_frames_go_through_the_dialect_both_ways() -> None:
    wire = Wire("what", b"\0\0")
    peer = await accept(wire)
    await peer.open()
    assert await peer.receive() == messages.Start()
    assert await peer.receive() == b"\0\0"
    assert await peer.receive() == messages.Flush()
    assert wire.texts() == ["hello", "what", "!"]
    await peer.send(messages.Ack(1))
    assert wire.texts()[-1] == "Ack"
    assert await peer.receive() is None
    with pytest.raises(ConnectionError):
        await peer.send(messages.Ack(2))


async def test_replies_and_reports_are_not_mixed() -> None:
    wire = Wire("one", b"\0\0")
    peer = await accept(wire)
    await asyncio.gather(peer.receive(), peer.send(messages.Ack(1)))
    assert wire.texts() in (["one", "!", "Ack"], ["Ack", "one", "!"])


async def test_dismissing_says_why_in_the_dialects_words() -> None:
    wire = Wire()
    peer = await accept(wire)
    await peer.dismiss(Draining("stops"))
    await peer.dismiss(Draining("stops"))
    assert wire.texts() == ["Error"]
    (close,) = [m for m in wire.sent if m["type"] == "websocket.close"]
    assert (close["code"], close["reason"]) == (4000, "1012 draining")


class _Control(msgspec.Struct):
    type: str


def test_control_messages_may_have_fields_that_nobody_knows() -> None:
    assert read_control('{"type":"x","more":[1]}', _Control).type == "x"


@pytest.mark.parametrize("text", ["", "x", "[]", '{"type":1}', "{}", '{"type":' + "[" * 5000])
def test_what_is_no_control_message_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_control(text, _Control)
    assert (caught.value.code, caught.value.close_code) == ("bad_message", 1008)


def test_the_size_of_a_control_message_is_bounded() -> None:
    with pytest.raises(TooLarge):
        read_control(f'{{"type":"{"x" * 70_000}"}}', _Control)


class ParrotApi(Api):
    """An API with a subprotocol and a header of its own."""

    def subprotocol(self, connection):
        return "parrot"

    def headers(self, call):
        return {"call": call.request_id}

    def begin(self, connection, call, info):
        return Parrot()


async def serve(make_services, wire: Wire, *, is_open: bool = True) -> Admission:
    admission = Admission(1)
    if is_open:
        admission.open(make_services(), lambda: True)
    door = Door(admission, Keys(["seed"]), Metrics(), 1000)
    async with asyncio.timeout(5):
        await DialectEndpoint(ParrotApi(), door)(wire.websocket)
    return admission


async def test_a_session_from_the_door_to_the_end(make_services) -> None:
    wire = Wire(b"\0\0", until="Ready", headers=[(b"x-api-key", b"seed")])
    admission = await serve(make_services, wire)
    assert wire.sent[0]["subprotocol"] == "parrot"
    assert [name for name, _ in wire.sent[0]["headers"]] == [b"call"]  # type: ignore[attr-defined]
    assert wire.texts()[0] == "hello"
    assert "Ready" in wire.texts()
    assert admission.inside == 0


@pytest.mark.parametrize(
    ("key", "is_open", "status"), [(b"stone", True, 401), (b"seed", False, 503)]
)
async def test_who_is_not_let_in_is_told_before_the_upgrade(
    make_services, key: bytes, is_open: bool, status: int
) -> None:
    wire = Wire(headers=[(b"x-api-key", key)])
    await serve(make_services, wire, is_open=is_open)
    assert wire.sent[0]["type"] == "websocket.http.response.start"
    assert wire.sent[0]["status"] == status

"""No connection lasts because its client does nothing: sends no request, or takes no answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect as dial
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Close
from websockets.uri import parse_uri

from stream_server import connections
from stream_server.connections import ClosingProtocol, PunctualProtocol

BIG = "x" * 4_000_000


@contextlib.asynccontextmanager
async def serving(
    talk: Callable[[Any], Awaitable[None]], ping: float = 20.0, *, accepts: bool = True
) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """Serve one WebSocket application on a free port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.3)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        await talk(send)

    config = uvicorn.Config(
        app, http=PunctualProtocol, ws=ClosingProtocol, lifespan="off", log_config=None
    )
    config.timeout_graceful_shutdown = 1
    config.ws_ping_interval = config.ws_ping_timeout = ping
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = True
            await task


async def connect(port: int) -> tuple[ClientProtocol, asyncio.StreamReader, asyncio.StreamWriter]:
    """Upgrade, and read no further than that."""
    protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"), max_size=None)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    protocol.send_request(protocol.connect())
    writer.writelines(protocol.data_to_send())
    protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
    return protocol, reader, writer


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read up to the end, or up to a close."""
    data = b""
    async with asyncio.timeout(10):
        while piece := await reader.read(1 << 20):
            data += piece
            if data.endswith(b"timeout"):
                break
    return data


async def stuff(send: Any) -> None:
    """Send more than any buffer takes, then close."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            while True:
                await send({"type": "websocket.send", "text": BIG})
    async with asyncio.timeout(1):
        await send({"type": "websocket.close", "code": 1013, "reason": "timeout"})


async def test_a_deaf_client_that_listens_at_last_hears_why() -> None:
    async with serving(stuff) as (port, _):
        protocol, reader, writer = await connect(port)
        await asyncio.sleep(0.5)
        protocol.receive_data(await read_all(reader))
        assert protocol.close_rcvd == Close(1013, "timeout")
        writer.close()


async def test_one_that_never_listens_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SECONDS", 0.1)
    async with serving(stuff) as (port, server):
        protocol, reader, writer = await connect(port)
        assert len(server.server_state.connections) == 1
        async with asyncio.timeout(5):
            while server.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        protocol.receive_data(await read_all(reader))
        assert protocol.close_rcvd is None, "there was no room even for that"
        writer.close()


async def test_a_client_that_answers_no_ping_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SECONDS", 0.1)

    async def wait(send: Any) -> None:
        with contextlib.suppress(Exception):
            while True:
                await send({"type": "websocket.send", "text": BIG})

    async with serving(wait, ping=0.1) as (port, server):
        _, _, writer = await connect(port)
        async with asyncio.timeout(5):
            while server.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_client_that_listens_is_closed_as_ever() -> None:
    async def close(send: Any) -> None:
        await send({"type": "websocket.close", "code": 1000, "reason": "done"})

    async with serving(close) as (port, _):
        protocol, reader, writer = await connect(port)
        async with asyncio.timeout(5):
            protocol.receive_data(await reader.read(1 << 16))
            writer.writelines(protocol.data_to_send())
            assert await reader.read() == b""
        assert protocol.close_rcvd == Close(1000, "done")
        writer.close()


async def test_a_refusal_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b" key"})

    async with serving(refuse, accepts=False) as (port, _):
        with pytest.raises(InvalidStatus) as caught:
            async with dial(f"ws://127.0.0.1:{port}/"):
                pass
    assert (caught.value.response.status_code, caught.value.response.body) == (401, b"no key")
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


# --- heads of requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [[], [b"GET / HT"], [b"GET / HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 40], [b"\0"]],
    ids=["nothing", "half a line", "a header now and then", "no HTTP"],
)
async def test_half_a_request_is_not_waited_for(monkeypatch, pieces: list[bytes]) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.2)
    async with serving(stuff) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.create_task(drip(writer, pieces))
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert b"200" not in await reader.read()
        assert not server.server_state.connections
        sending.cancel()
        writer.close()


async def drip(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.05)


async def test_a_whole_request_has_its_time_and_the_next_one_too(monkeypatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.2)
    async with serving(stuff) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # each answer takes longer than a head may
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert not server.server_state.connections
        writer.close()


async def test_an_upgrade_is_no_half_request(monkeypatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.1)

    async def wait(send: Any) -> None:
        await asyncio.sleep(0.4)
        await send({"type": "websocket.close", "code": 1000, "reason": "done"})

    async with serving(wait) as (port, _), dial(f"ws://127.0.0.1:{port}/") as socket:
        await socket.wait_closed()
        assert socket.close_code == 1000

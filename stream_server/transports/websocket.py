"""Sessions over WebSocket: frames to messages and back, and who is let in.

Knows nothing of audio or text.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import structlog
from starlette.websockets import WebSocket

from stream_protocol import codec
from stream_protocol.connection import AUDIO, Connection, State
from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_protocol.messages import SUBPROTOCOL, ClientMessage, ServerMessage
from stream_server.errors import DiffscribeError, error_message, wire_error
from stream_server.session.driver import run_session
from stream_server.transports.answers import error_response
from stream_server.transports.door import Door
from stream_server.transports.socket import GRACE_SECONDS, Socket


class WebSocketPeer:
    """The client of one session, over an accepted WebSocket.

    Args:
        websocket: accepted.
        max_message_bytes: of one frame's message; text has the codec's bound as well.
    """

    def __init__(self, websocket: WebSocket, max_message_bytes: int) -> None:
        self._socket = Socket(websocket, max_message_bytes)
        self._connection = Connection("server")
        self._opened = asyncio.Event()
        """Set once ``start`` has its answer."""

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the next message or audio frame; none when the client is gone.

        Nothing is read between ``start`` and its answer, so whether a client that does not wait
        for ``ready`` is served does not depend on who is faster. Empty audio frames are passed
        over here: they carry nothing, and the session's idle timeout counts them as nothing.

        Raises:
            RemoteProtocolError: it is not a message, or may not be sent now.
            TooLarge: a frame is over the limit.
        """
        while self._connection.state is not State.CLOSED:
            if self._connection.state is State.OPENING:
                await self._opened.wait()
            data = await self._socket.receive()
            if data is None:
                break
            if isinstance(data, str):
                message = codec.decode_client(data)
                self._connection.receive(message)
                return message
            self._connection.receive(AUDIO)
            if data:
                return data
        self._leave()
        return None

    async def send(self, message: ServerMessage) -> None:
        """Send ``message``; returns when there is room for more.

        Raises:
            ConnectionError: the client is gone.
            LocalProtocolError: the server may not send this now: a defect in the caller.
        """
        if self._socket.is_gone:
            raise ConnectionResetError("the client is gone")
        self._connection.send(message)
        if self._connection.state is not State.OPENING:
            self._opened.set()
        try:
            await self._socket.send(codec.encode(message))
        except ConnectionError:
            self._leave()
            raise

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; nothing happens if that has been done."""
        await self._socket.close(code, reason)
        self._leave()

    async def dismiss(self, error: DiffscribeError) -> None:
        """Send ``error`` and close. Never raises."""
        wire = wire_error(error)
        with contextlib.suppress(LocalProtocolError, ConnectionError, TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.send(error_message(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.close(wire.close_code, wire.code)

    def _leave(self) -> None:
        self._connection.close()
        self._opened.set()


class StreamEndpoint:
    """``/v1/stream``: lets a client in, or says before the upgrade why not.

    Args:
        door: who is let in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        door = self._door
        peer = WebSocketPeer(websocket, door.max_message_bytes)
        with contextlib.ExitStack() as stack:
            try:
                key = door.keys.check(websocket, "session").key
                subprotocol = _choose_subprotocol(websocket)
                services = stack.enter_context(door.admission.admit(peer, key))
            except (DiffscribeError, RemoteProtocolError) as error:
                await door.refuse(websocket, error, error_response(error))
                return
            session_id = uuid.uuid4().hex
            with structlog.contextvars.bound_contextvars(session=session_id):
                await websocket.accept(subprotocol)
                await run_session(peer, services, session_id, door.admission.meter(key))


def _choose_subprotocol(websocket: WebSocket) -> str | None:
    """Return what to accept: ours if offered, nothing if nothing is.

    Raises:
        RemoteProtocolError: only others are offered; a client that gets none of what it asked for
            must fail the connection anyway (RFC 6455, 4.1), and so it learns why.
    """
    offered: list[str] = websocket.scope.get("subprotocols", [])
    if not offered:
        return None
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    raise RemoteProtocolError(
        "bad_message",
        f"none of the subprotocols offered is spoken here; offer {SUBPROTOCOL!r} or none",
    )


__all__ = ["StreamEndpoint", "WebSocketPeer"]

"""Sessions with clients that speak another API: the shell round a translator.

A :class:`Dialect` turns one client's frames into what a session takes, and a session's messages
into what that client reads: plain calls, no socket and no loop. The shell lets clients in, moves
frames, and says before the upgrade, in the API's own form, why somebody is not let in. An API is
one :class:`Api` and one dialect; the session behind it is the same as on ``/v1/stream``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import msgspec
import structlog
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import ClientMessage, ServerMessage
from stream_server.errors import DiffscribeError, TooLarge, error_message, wire_error
from stream_server.keyring import ANYONE
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.session.driver import run_session
from stream_server.transports.answers import error_response
from stream_server.transports.auth import Caller
from stream_server.transports.door import Door
from stream_server.transports.socket import GRACE_SECONDS, Socket

_MAX_TEXT = 65_536
"""Characters of a text frame; no control message of these APIs is near it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One connection, as its dialect needs to know it."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: Callable[[], float] = time.monotonic
    """Seconds, from any zero."""
    caller: Caller = Caller(ANYONE)
    """Who was let in."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a frame of the client amounts to."""

    session: Sequence[ClientMessage | bytes] = ()
    """For the session, in this order; the first of a conversation is ``Start``."""
    replies: Sequence[msgspec.Struct] = ()
    """For the client at once, before the session has seen anything of it."""


NOTHING = Heard()


class Dialect(Protocol):
    """The translator of one conversation."""

    def open(self) -> Heard:
        """Return what is said and heard before the client's first frame."""

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client.

        Raises:
            DiffscribeError: it is wrong; ends the session.
            RemoteProtocolError: it may not be sent now; ends the session.
        """

    def tell(self, message: ServerMessage) -> Sequence[msgspec.Struct]:
        """Return what the client is told of a message of the session."""

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return close code and reason in the API's terms."""


class Api(ABC):
    """One API over WebSocket, with what most of them have in common."""

    def subprotocol(self, connection: HTTPConnection) -> str | None:
        """Return which of the offered subprotocols is accepted."""
        return None

    def headers(self, call: Call) -> Mapping[str, str]:
        """Return headers of the accepting response."""
        return {}

    @abstractmethod
    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client that is let in.

        Raises:
            InvalidField: what the client asks for in its URL is wrong.
            RemoteProtocolError: it asks for another protocol.
        """

    def refuse(self, error: Exception, call: Call) -> Response:
        """Return the answer, before the upgrade, to a client that is not let in."""
        return error_response(error)


_Control = TypeVar("_Control", bound=msgspec.Struct)


def read_control(text: str, kind: type[_Control]) -> _Control:
    """Return the control message in a text frame; fields that ``kind`` lacks are passed over.

    Raises:
        RemoteProtocolError: it is not JSON, or not of this shape.
        TooLarge: it is over what any control message needs.
    """
    if len(text) > _MAX_TEXT:
        raise TooLarge(f"a text message may have {_MAX_TEXT} characters; audio is sent as binary")
    try:
        return msgspec.json.decode(text, type=kind)
    # Deep nesting and lone surrogates included; msgspec's own errors are ValueErrors.
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RemoteProtocolError(
            "bad_message", f"a text message is not as it should be: {reason[:200]}", close_code=1008
        ) from None


class DialectPeer:
    """The client of one session, heard and told through a dialect.

    Args:
        socket: the client's.
        dialect: the translator.
    """

    def __init__(self, socket: Socket, dialect: Dialect) -> None:
        self._socket = socket
        self._dialect = dialect
        self._heard: deque[ClientMessage | bytes] = deque()
        self._order = asyncio.Lock()

    async def open(self) -> None:
        """Say what the API says first."""
        await self._take(self._dialect.open())

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the next message or audio for the session; none when the client is gone.

        Raises:
            DiffscribeError: the client sent something wrong.
            RemoteProtocolError: it may not be sent now.
        """
        while not self._heard:
            frame = await self._socket.receive()
            if frame is None:
                return None
            await self._take(self._dialect.hear(frame))
        return self._heard.popleft()

    async def send(self, message: ServerMessage) -> None:
        """Tell the client of ``message``; returns when there is room for more.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._socket.is_gone:
            raise ConnectionResetError("the client is gone")
        await self._say(self._dialect.tell(message))

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; nothing happens if that has been done."""
        await self._socket.close(*self._dialect.closing(code, reason))

    async def dismiss(self, error: DiffscribeError) -> None:
        """Say ``error`` and close. Never raises."""
        message = msgspec.structs.replace(error_message(error), fatal=True)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.send(message)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.close(wire_error(error).close_code, message.code)

    async def _take(self, heard: Heard) -> None:
        self._heard.extend(heard.session)
        with contextlib.suppress(ConnectionError):  # the next read says that it is gone
            await self._say(heard.replies)

    async def _say(self, messages: Sequence[msgspec.Struct]) -> None:
        # Replies and reports come from two tasks; what was said first goes first.
        async with self._order:
            for message in messages:
                await self._socket.send(msgspec.json.encode(message).decode())


class DialectEndpoint:
    """Serves one API: lets a client in, or says before the upgrade why not.

    Args:
        api: which.
        door: who is let in.
    """

    def __init__(self, api: Api, door: Door) -> None:
        self._api = api
        self._door = door

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        api, door, call = self._api, self._door, Call()
        socket = Socket(websocket, door.max_message_bytes)
        with contextlib.ExitStack() as stack:
            try:
                caller = door.keys.check(websocket, "session")
                key, call = caller.key, replace(call, caller=caller)
                services = door.admission.check(key)
                dialect = api.begin(websocket, call, services.info)
                peer = DialectPeer(socket, dialect)
                stack.enter_context(door.admission.admit(peer, key))
            except (DiffscribeError, RemoteProtocolError) as error:
                await door.refuse(websocket, error, api.refuse(error, call))
                return
            with structlog.contextvars.bound_contextvars(session=call.request_id):
                headers = [(k.encode(), v.encode()) for k, v in api.headers(call).items()]
                await websocket.accept(api.subprotocol(websocket), headers)
                await peer.open()
                await run_session(peer, services, call.request_id, door.admission.meter(key))


__all__ = [
    "NOTHING",
    "Api",
    "Call",
    "Dialect",
    "DialectEndpoint",
    "DialectPeer",
    "Heard",
    "read_control",
]

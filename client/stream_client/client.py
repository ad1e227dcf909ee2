"""The client: ``async with connect(url) as stream``, send audio, iterate what comes back.

One task runs the connections of a stream, one after the other: it opens a WebSocket, sends
``start``, waits for ``ready``, then sends from the stream's log and reads messages until ``done``.
What must be sent again after a break is decided by ``resume.SendLog``, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from stream_client.errors import (
    ClientError,
    ConnectionFailed,
    ServerMisbehaved,
    ServerRefused,
    StreamBroken,
)
from stream_client.inbox import Inbox
from stream_client.resume import SendLog
from stream_protocol import codec
from stream_protocol.connection import AUDIO, Connection, State
from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_protocol.messages import (
    SUBPROTOCOL,
    Ack,
    ClientMessage,
    Configure,
    Endpointing,
    Error,
    ErrorCode,
    Final,
    Flush,
    Notice,
    Partial,
    Ready,
    ServerMessage,
    Start,
    Stop,
)

MAX_FRAME_BYTES = 32_768
"""Bytes of one binary frame at most; waiting audio is joined up to this."""
MAX_AHEAD_BYTES = 262_144
"""Bytes that :meth:`Stream.send` takes beyond what the socket has taken, while connected."""
RECONNECTED = "reconnected"
"""Code of the ``notice`` that the client itself puts in after a resume: partials start anew."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_STATUS_CODES: dict[int, ErrorCode] = {
    401: "unauthorized",
    403: "unauthorized",
    413: "too_large",
    429: "limit",
    503: "overloaded",
    504: "timeout",
}


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a broken connection is opened again."""

    attempts: int = 20
    """Tries in a row that bring nothing before the stream is given up: as long, with the delays, as
    audio is kept, and as a server may take to load its model again."""
    first_delay: float = 0.25
    """Seconds before the first try; doubles with each."""
    max_delay: float = 10.0
    """Seconds between tries at most."""
    keep_seconds: float = 120.0
    """Seconds of audio kept for sending again; four times the longest segment or more."""

    def delay(self, attempt: int) -> float:
        """Seconds before try ``attempt`` (from 0), half of it random so that clients spread."""
        full = min(self.first_delay * 2.0**attempt, self.max_delay)
        return full * (0.5 + random.random() / 2)


class connect:  # noqa: N801 - reads as a verb, like open()
    """Open a stream: ``async with connect(url) as stream``.

    Args:
        url: WebSocket URL of the server, ``ws://127.0.0.1:8000/v1/stream``.
        start: What the audio is and what is wanted.
        api_key: Sent as ``Authorization: Bearer``.
        reconnect: How to go on after a break; none raises ``StreamBroken`` instead.
        open_timeout: Seconds that opening a connection may take, ``ready`` included.

    Raises:
        ConnectionFailed: No server answered.
        ServerRefused: The server said no.
    """

    def __init__(
        self,
        url: str,
        start: Start | None = None,
        *,
        api_key: str | None = None,
        reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - immutable
        open_timeout: float = 20.0,
    ) -> None:
        self._stream = Stream(_Dialler(url, api_key, open_timeout), start or Start(), reconnect)

    async def __aenter__(self) -> Stream:
        await self._stream.open()
        return self._stream

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stream.close()


class Stream:
    """A stream of audio out and messages in. Made by :class:`connect`."""

    def __init__(self, dialler: _Dialler, start: Start, reconnect: Reconnect | None) -> None:
        self._dialler = dialler
        self._start = start
        self._reconnect = reconnect
        keep_seconds = reconnect.keep_seconds if reconnect else 0.0
        self._log = SendLog(start, capacity_seconds=keep_seconds, keep=reconnect is not None)
        self._inbox: Inbox[ServerMessage] = Inbox()
        self._ready: asyncio.Future[Ready] | None = None
        self._task: asyncio.Task[None] | None = None
        self._to_send = asyncio.Event()
        self._has_room = asyncio.Event()
        self._connected = False
        self._stopped = False
        self._progressed = False
        self.reconnects = 0
        """Times that the stream was resumed."""
        self.ready: Ready
        """What the server said when the (latest) connection opened."""

    @property
    def position(self) -> int:
        """Samples at 16 kHz; the end of the audio given to :meth:`send`. 0 for containers."""
        return self._log.position

    @property
    def sent_position(self) -> int:
        """Samples at 16 kHz; the end of the audio given to the socket. 0 for containers."""
        return self._log.sent_position

    @property
    def acked(self) -> int:
        """Samples at 16 kHz; how far the server has acknowledged."""
        return self._log.acked

    async def send(self, data: bytes) -> None:
        """Send audio in the announced encoding. Pieces of any length; 20 to 100 ms suit live audio.

        Waits while the server does not read (back-pressure).

        Raises:
            ClientError: The stream has failed.
            LocalProtocolError: After :meth:`stop`.
        """
        self._check_sendable()
        self._log.append_audio(data)
        self._to_send.set()
        while self._must_wait():
            self._has_room.clear()
            await self._has_room.wait()
        self._inbox.raise_failure()

    async def flush(self, id: str | None = None) -> None:
        """Ask for everything heard so far to be finalised; ``flushed`` with ``id`` answers."""
        self._append(Flush(id=id))

    async def configure(
        self,
        *,
        endpointing: Endpointing | None = None,
        language: str | None = None,
        partial_interval_ms: int | None = None,
    ) -> None:
        """Change settings from this point of the audio on; none leaves one as it is."""
        self._append(
            Configure(
                endpointing=endpointing, language=language, partial_interval_ms=partial_interval_ms
            )
        )

    async def stop(self) -> None:
        """Say that no more audio follows. Keep iterating: the last message is ``done``."""
        self._append(Stop())
        self._stopped = True

    def __aiter__(self) -> AsyncIterator[ServerMessage]:
        return self

    async def __anext__(self) -> ServerMessage:
        """Return the next message; ends after ``done``.

        Where the caller is slower than the server, an unread ``ack`` or ``partial`` is replaced by
        its successor; nothing else is left out.

        Raises:
            ClientError: The stream has failed; messages before that come first.
        """
        message = await self._inbox.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def open(self) -> None:
        """Connect and wait for ``ready``. Called by :class:`connect`."""
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="diffscribe stream")
        try:
            self.ready = await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Hang up, whether or not everything was received. Called by :class:`connect`."""
        if self._task is not None:
            await _end(self._task)

    def _check_sendable(self) -> None:
        if self._stopped:
            raise LocalProtocolError("the stream has been stopped; nothing can be sent any more")
        self._inbox.raise_failure()

    def _append(self, message: Flush | Configure | Stop) -> None:
        self._check_sendable()
        self._log.append_control(message)
        self._to_send.set()

    def _must_move(self, message: ServerMessage) -> bool:
        """Whether to go on elsewhere: what is finishing anyway is finished where it is."""
        is_draining = isinstance(message, Notice) and message.code == "draining"
        return is_draining and not self._stopped and self._log.can_resume

    def _must_wait(self) -> bool:
        if self._inbox.is_closed:
            return False
        # While disconnected only the log's capacity bounds what is taken, so that a microphone
        # loses nothing; while connected the socket sets the pace.
        return self._log.is_full or (self._connected and self._log.unsent_bytes > MAX_AHEAD_BYTES)

    async def _run(self) -> None:
        """Hold conversations until one comes to its end; then close the inbox."""
        failure: ClientError | None = StreamBroken("the stream was closed")
        try:
            await self._converse_until_done()
            failure = None
        except ClientError as error:
            failure = error
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self._inbox.close(failure)
            self._has_room.set()
            if self._ready is not None and not self._ready.done():
                self._ready.cancel()

    async def _converse_until_done(self) -> None:
        start, attempt = self._start, 0
        while True:
            self._progressed = False
            try:
                await self._converse(start)
                return
            except (ConnectionFailed, ServerRefused, StreamBroken) as error:
                failure = error
            finally:
                self._connected = False
            attempt = 0 if self._progressed else attempt + 1
            self._give_up_unless_resumable(failure, attempt)
            if self._reconnect is not None:
                await asyncio.sleep(self._reconnect.delay(attempt))
            start = self._log.rewind(self.ready.resume_token)

    def _give_up_unless_resumable(self, failure: ClientError, attempt: int) -> None:
        opened = self._ready is not None and self._ready.done()
        final = isinstance(failure, ServerRefused) and not failure.retryable
        if not opened or final or self._reconnect is None:
            raise failure
        if not self._log.can_resume:
            raise StreamBroken(
                f"{failure}; a stream in {self._start.encoding} cannot be resumed, since a "
                "container can only be read from its beginning: send PCM to survive a break"
            ) from failure
        if attempt >= self._reconnect.attempts:
            raise StreamBroken(
                f"{failure}; gave up after {self._reconnect.attempts} tries"
            ) from failure

    async def _converse(self, start: Start) -> None:
        """Hold one conversation. Returns after ``done``; raises whatever else ended it."""
        websocket, protocol, ready = await self._dialler.dial(start)
        try:
            self._connected = True
            self._greet(ready, start)
            sender = asyncio.create_task(self._send_all(websocket, protocol))
            try:
                await self._receive_all(websocket, protocol)
            finally:
                await _end(sender)
        finally:
            await websocket.close()

    def _greet(self, ready: Ready, start: Start) -> None:
        self.ready = ready
        self._to_send.set()
        self._has_room.set()
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(ready)
            return
        self.reconnects += 1
        places = start.resume.channels if start.resume else None
        position = min((place.covered for place in places or ()), default=0)
        self._inbox.put(Notice(RECONNECTED, f"the stream goes on from sample {position}"))

    async def _send_all(self, websocket: ClientConnection, protocol: Connection) -> None:
        while True:
            item = self._log.take(MAX_FRAME_BYTES)
            if item is None:
                self._to_send.clear()
                await self._to_send.wait()
            elif isinstance(item, bytes):
                protocol.send(AUDIO)
                await websocket.send(item)
                if not self._must_wait():
                    self._has_room.set()
            else:
                protocol.send(item)
                await websocket.send(codec.encode(item))

    async def _receive_all(self, websocket: ClientConnection, protocol: Connection) -> None:
        while protocol.state is not State.CLOSED:
            message = await _receive(websocket, protocol)
            if isinstance(message, Error) and message.fatal:
                raise ServerRefused.from_message(message)
            if isinstance(message, Ack | Final):
                self._progressed = True
            self._log.receive(message)
            self._inbox.put(message, _superseding(message))
            if not self._must_wait():
                self._has_room.set()
            if self._must_move(message):
                raise StreamBroken("the server is about to stop")


@dataclass(frozen=True, slots=True)
class _Dialler:
    """Opens connections to one server."""

    url: str
    api_key: str | None
    timeout: float
    """Seconds."""

    async def dial(self, start: Start) -> tuple[ClientConnection, Connection, Ready]:
        """Open a WebSocket, send ``start`` and return what is open after ``ready``."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else None
        try:
            async with asyncio.timeout(self.timeout):
                websocket = await open_websocket(
                    self.url,
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    compression=None,
                    additional_headers=headers,
                    # A proxy for the outside world cannot reach a server on this machine.
                    proxy=None if urlsplit(self.url).hostname in _LOOPBACK else True,
                    open_timeout=None,
                    close_timeout=2,
                )
                try:
                    return await self._open(websocket, start)
                except BaseException:
                    await websocket.close()
                    raise
        except TimeoutError:
            raise ConnectionFailed(self.url, f"no answer within {self.timeout:g} s") from None
        except InvalidStatus as error:
            raise _refused(error) from error
        except (OSError, InvalidURI, WebSocketException, ValueError) as error:
            raise ConnectionFailed(self.url, str(error) or type(error).__name__) from error

    async def _open(
        self, websocket: ClientConnection, start: Start
    ) -> tuple[ClientConnection, Connection, Ready]:
        if websocket.subprotocol != SUBPROTOCOL:
            raise ConnectionFailed(self.url, f"the server does not speak {SUBPROTOCOL}")
        protocol = Connection("client")
        await _send(websocket, protocol, start)
        while True:
            message = await _receive(websocket, protocol)
            if isinstance(message, Error):
                raise ServerRefused.from_message(message)
            if isinstance(message, Ready):
                return websocket, protocol, message


def _superseding(message: ServerMessage) -> tuple[object, ...]:
    """Return what an unread message has in common with the one that takes its place."""
    if isinstance(message, Ack):
        return ("ack",)
    if isinstance(message, Partial):
        return ("partial", message.channel, message.segment)
    return ()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for it; a defect in it does not pass unseen."""
    task.cancel()
    # Not `await task`: that could not be told from a cancellation of the caller.
    await asyncio.wait([task])
    error = None if task.cancelled() else task.exception()
    # A closed socket is what the reader reports.
    if error is not None and not isinstance(error, ConnectionClosed):
        raise error


async def _send(websocket: ClientConnection, protocol: Connection, message: ClientMessage) -> None:
    protocol.send(message)
    # A server that refuses may close first; its reason is still to be read.
    with contextlib.suppress(ConnectionClosed):
        await websocket.send(codec.encode(message))


async def _receive(websocket: ClientConnection, protocol: Connection) -> ServerMessage:
    try:
        data = await websocket.recv()
    except ConnectionClosed as error:
        raise StreamBroken(f"the connection broke: {error}") from error
    try:
        message = codec.decode_server(data)
        protocol.receive(message)
    except RemoteProtocolError as error:
        raise ServerMisbehaved(f"the server broke the protocol: {error}") from error
    return message


class _Detail(msgspec.Struct, frozen=True):
    message: str
    code: ErrorCode
    param: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    """The body of an HTTP answer that refuses the upgrade."""

    error: _Detail


def _refused(error: InvalidStatus) -> ClientError:
    """Return what an HTTP answer instead of a WebSocket means."""
    status = error.response.status_code
    retryable = status == 429 or status >= 500
    # A proxy in between answers in its own words, or in none.
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
        body = msgspec.json.decode(error.response.body or b"", type=_Refusal)
        detail = body.error
        return ServerRefused(detail.code, detail.message, retryable=retryable, field=detail.param)
    code: ErrorCode = _STATUS_CODES.get(status, "internal" if status >= 500 else "bad_message")
    return ServerRefused(code, f"HTTP status {status}", retryable=retryable)


__all__ = [
    "MAX_AHEAD_BYTES",
    "MAX_FRAME_BYTES",
    "RECONNECTED",
    "Reconnect",
    "Stream",
    "connect",
]

"""The socket on which Jitsi's Jigasi sends a whole meeting to its "Whisper" service, skynet.

One socket a meeting: each binary message is a piece of one participant's audio with a header that
names them, and what comes back names them too. Nothing comes of who is muted, so a session of ours
is one participant's stretch of audio: it begins with a piece and ends when none has come for a
while. Someone who is muted takes no place, and the time of what was said never drifts.

The socket itself may be silent for as long as nobody speaks: Jigasi does not come again after a
close. Pings of the WebSocket tell whether it is still there.

There are no errors in this protocol. Someone for whom there is no place goes without captions
until there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    CLOCK_RATE,
    ClientMessage,
    Final,
    Partial,
    ServerMessage,
    Start,
    Stop,
)
from stream_server.errors import DiffscribeError, Draining, LimitReached, Overloaded, wire_error
from stream_server.keyring import Key
from stream_server.session.driver import Services, run_session
from stream_server.transports.answers import error_response
from stream_server.transports.door import Door
from stream_server.transports.socket import GRACE_SECONDS, Socket

PATH = "/streaming-whisper/ws/{meeting}"
"""Jigasi puts an id of its own behind the address that it is set to."""
HEADER_BYTES = 60
QUIET_SECONDS = 3.0
"""Without a piece after which a stretch of speech is over; Jigasi's pieces are of 1.5 s."""

_END = b"\0"
_SAMPLE_BYTES = 2
_MAX_WAITING = 32
"""Pieces of one participant that may wait; then the socket is not read."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """A message of the client."""

    participant: str
    language: str | None
    """ISO 639-1 code, where the client knows one."""
    audio: bytes
    """16 kHz mono s16le."""


def read_piece(frame: str | bytes) -> Piece | None:
    """Take a message apart; none says that the meeting is over.

    Raises:
        RemoteProtocolError: it is none of this protocol's.
    """
    if frame == _END:
        return None
    if isinstance(frame, str) or len(frame) < HEADER_BYTES:
        raise RemoteProtocolError(
            "bad_message",
            f"a message is binary: {HEADER_BYTES} bytes that say participant|language, then audio",
            close_code=1003,
        )
    try:
        # Padded with zeros by Jigasi, with spaces by skynet's own demo.
        header = frame[:HEADER_BYTES].decode().strip("\0 ")
    except UnicodeDecodeError:
        raise RemoteProtocolError(
            "bad_message", "the header is not UTF-8", close_code=1007
        ) from None
    participant, _, tag = header.partition("|")
    code = tag.partition("-")[0].lower()
    # Where Jigasi knows no language, Java writes "null".
    return Piece(participant, code if len(code) == 2 else None, frame[HEADER_BYTES:])


class Reply(msgspec.Struct, frozen=True):
    """What the client is told."""

    id: str
    """The same, a UUID, for all that is said of one utterance."""
    participant_id: str
    ts: int
    """Milliseconds since 1970 at which the utterance began."""
    text: str
    type: str
    """``interim`` or ``final``."""
    audio: str = ""
    variance: float = 0.0
    """A number with a point: Jigasi takes no integer here."""


class Stretch:
    """What is told of a participant's stretch of audio. Pure.

    Args:
        participant: as the client calls them.
        began_ms: milliseconds since 1970 at which it began.
        new_id: makes a UUID.
    """

    def __init__(self, participant: str, began_ms: int, new_id: Callable[[], str]) -> None:
        self._participant = participant
        self._began_ms = began_ms
        self._new_id = new_id
        self._ids: dict[int, str] = {}
        """Of the segments that run."""
        self._shown = ""

    def tell(self, message: ServerMessage) -> Reply | None:
        """Return what the client is told of a message of the session."""
        match message:
            case Partial() if text := (message.stable + message.tentative).strip():
                if text == self._shown:
                    return None
                self._shown = text
                return self._reply(message, text, "interim")
            case Final():
                self._shown = ""
                text = message.text.strip()
                # Nothing said after all: there is no way to take an interim back.
                reply = self._reply(message, text, "final") if text else None
                self._ids.pop(message.segment, None)
                return reply
        return None

    def _reply(self, message: Partial | Final, text: str, kind: str) -> Reply:
        if message.segment not in self._ids:
            self._ids[message.segment] = self._new_id()
        at = self._began_ms + message.start * 1000 // CLOCK_RATE
        return Reply(self._ids[message.segment], self._participant, at, text, kind)


class _Voice:
    """The client of one session: a participant, for as long as they go on speaking."""

    def __init__(self, stretch: Stretch, start: Start, socket: Socket) -> None:
        self._stretch = stretch
        self._socket = socket
        self._waiting: asyncio.Queue[ClientMessage | bytes | None] = asyncio.Queue(_MAX_WAITING)
        self._waiting.put_nowait(start)
        self.language = start.language
        self.is_over = False
        """Whether a further piece begins another."""

    async def give(self, item: Stop | bytes | None) -> None:
        """Take the next piece; ``Stop`` if it is the last, none if the client is gone."""
        self.is_over = self.is_over or not isinstance(item, bytes)
        await self._waiting.put(item)

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the next item for the session; ``Stop`` if none comes for a while."""
        if self.is_over:
            return await self._waiting.get()
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                return await self._waiting.get()
        except TimeoutError:
            self.is_over = True
            return Stop()

    async def send(self, message: ServerMessage) -> None:
        """Tell the client; raises ConnectionError if it is gone."""
        if self._socket.is_gone:
            raise ConnectionResetError("the client is gone")
        reply = self._stretch.tell(message)
        if reply is not None:
            await self._socket.send(msgspec.json.encode(reply).decode())

    async def dismiss(self, error: DiffscribeError) -> None:
        """Do nothing: the meeting is sent away, and its voices with it."""

    async def close(self, code: int, reason: str) -> None:
        """End the session; the meeting's socket stays."""
        self.is_over = True
        while not self._waiting.empty():  # whoever waits for room goes on
            self._waiting.get_nowait()


class _Meeting:
    """One connection.

    Args:
        socket: accepted.
        door: where a place for each voice is taken.
        services: for what the model knows.
        key: whose quota the voices use.
    """

    def __init__(self, socket: Socket, door: Door, services: Services, key: Key) -> None:
        self._socket = socket
        self._door = door
        self._services = services
        self._key = key
        self._voices: dict[str, _Voice] = {}
        self._sessions: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the connection to its end; return once every session is over."""
        draining = asyncio.create_task(self._leave_when_draining())
        error: Exception | None = None
        try:
            await self._read()
        except (DiffscribeError, RemoteProtocolError) as reason:
            error = reason
        finally:
            draining.cancel()
            for voice in tuple(self._voices.values()):
                if not voice.is_over:
                    await voice.give(None if self._socket.is_gone else Stop())
            await self._settle()
        if error is None:
            await self._socket.close(1000, "")
        else:
            wire = wire_error(error)
            self._door.metrics.record_error(wire.code)
            await self._socket.close(wire.close_code, wire.code)

    async def dismiss(self, error: DiffscribeError) -> None:
        """Close the connection. Never raises."""
        wire = wire_error(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self._socket.close(wire.close_code, wire.code)

    async def _read(self) -> None:
        while (frame := await self._socket.receive()) is not None:
            piece = read_piece(frame)
            if piece is None:
                return
            voice = self._voice(piece) if piece.audio else None
            if voice is not None:
                await voice.give(piece.audio)

    def _voice(self, piece: Piece) -> _Voice | None:
        """Return whose piece it is; none where there is no place for them.

        Raises:
            Draining: the server is about to stop.
        """
        known = piece.language in self._services.info.languages
        language = piece.language if known else None
        voice = self._voices.get(piece.participant)
        if voice is None or voice.is_over or voice.language != language:
            voice = self._begin(piece, language)
        return voice

    def _begin(self, piece: Piece, language: str | None) -> _Voice | None:
        length_ms = len(piece.audio) // _SAMPLE_BYTES * 1000 // CLOCK_RATE
        began_ms = int(time.time() * 1000) - length_ms
        stretch = Stretch(piece.participant, began_ms, lambda: str(uuid.uuid4()))
        voice = _Voice(stretch, Start(language=language), self._socket)
        place = contextlib.ExitStack()
        try:
            place.enter_context(self._door.admission.admit(voice, self._key))
        except (LimitReached, Overloaded) as error:
            self._door.metrics.record_session_refused()
            self._door.metrics.record_error(wire_error(error).code)
            _log.info("no place for a participant")
            return None
        self._voices[piece.participant] = voice
        task = asyncio.create_task(self._serve(piece.participant, voice))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)
        task.add_done_callback(lambda _: place.close())
        return voice

    async def _serve(self, participant: str, voice: _Voice) -> None:
        session_id = uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(session=session_id):
            meter = self._door.admission.meter(self._key)
            await run_session(voice, self._services, session_id, meter)
        if self._voices.get(participant) is voice:
            del self._voices[participant]

    async def _settle(self) -> None:
        if self._sessions:
            await asyncio.gather(*self._sessions)

    async def _leave_when_draining(self) -> None:
        """Let those who speak finish, then say that the server is about to stop."""
        if self._services.draining is None:
            return
        await self._services.draining.wait()
        await self._settle()
        await self.dismiss(Draining("the server is about to stop"))


class JigasiEndpoint:
    """Lets meetings in, or says before the upgrade why not.

    Args:
        door: who is let in. A connection takes a place, and so does each who speaks in it; what
            the model bears is for those who speak.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        door = self._door
        socket = Socket(websocket, door.max_message_bytes)
        with contextlib.ExitStack() as stack:
            try:
                key = door.keys.check(websocket, "session").key
                meeting = _Meeting(socket, door, door.admission.check(key), key)
                stack.enter_context(door.admission.admit(meeting, key, is_heard=False))
            except DiffscribeError as error:
                await door.refuse(websocket, error, error_response(error))
                return
            await websocket.accept()
            await meeting.run()


def routes(door: Door) -> list[BaseRoute]:
    """Return the route of the API."""
    return [WebSocketRoute(PATH, JigasiEndpoint(door).__call__)]


__all__ = [
    "HEADER_BYTES",
    "PATH",
    "QUIET_SECONDS",
    "JigasiEndpoint",
    "Piece",
    "Reply",
    "Stretch",
    "read_piece",
    "routes",
]

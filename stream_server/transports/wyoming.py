"""The Wyoming protocol (Home Assistant) on a TCP port of its own, one utterance after the other.

A connection that only asks what is here holds no place; each utterance is a session, from
``audio-start`` to ``transcript``. There are no keys in this protocol, so the port is for machines
that are trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import uuid
from collections import deque
from typing import cast, get_args

import structlog

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    ClientMessage,
    Done,
    Error,
    Final,
    Partial,
    SampleRate,
    ServerMessage,
    SpeechStarted,
    Start,
    Stop,
)
from stream_server.config import LimitsConfig
from stream_server.errors import DiffscribeError, InvalidField, error_message
from stream_server.keyring import ANYONE
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.session.driver import run_session
from stream_server.transports import wyoming_events as wire
from stream_server.transports.admission import Admission
from stream_server.transports.growing_text import GrowingText
from stream_server.transports.socket import GRACE_SECONDS

_log = structlog.stdlib.get_logger(__name__)

_ATTRIBUTION = wire.Attribution("diffscribe", "")
_WIDTH = 2
"""Bytes of a sample that are taken."""

_Input = ClientMessage | bytes
"""What a session of ours takes."""
_Audio = wire.AudioStart | wire.AudioChunk | wire.AudioStop


def info_event(info: RecogniserInfo, version: str) -> wire.Info:
    """Return what ``describe`` is answered.

    Args:
        info: what the model knows.
        version: of the server.
    """
    model = wire.AsrModel(info.name, tuple(info.languages), _ATTRIBUTION, info.name, version)
    text = "Streaming transcription with a discrete-diffusion decoder"
    return wire.Info((wire.AsrProgram("diffscribe", (model,), _ATTRIBUTION, text, version),))


class Connection:
    """A client's connection: events in and out.

    Args:
        reader: with ``wyoming_events.MAX_HEADER`` as its limit.
        writer: its other half.
        info: what ``describe`` is answered.
        max_payload: bytes of audio in one event.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        info: wire.Info,
        max_payload: int,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._info = info
        self._max_payload = max_payload
        self.language: str | None = None
        """Of the next utterance; ISO 639-1."""

    async def read(self) -> _Audio | None:
        """Return the next event about audio, the others answered; none when the client is gone.

        Raises:
            RemoteProtocolError: it is not an event, or larger than allowed.
        """
        while not self._writer.is_closing():
            event = await wire.read_event(self._reader, self._max_payload)
            match event:
                case None:
                    break
                case wire.AudioStart() | wire.AudioChunk() | wire.AudioStop():
                    return event
                case wire.Transcribe():
                    code = re.split("[-_]", event.language or "", maxsplit=1)[0]
                    self.language = code.lower() or None
                case wire.Describe():
                    await self._answer(self._info)
                case wire.Ping():
                    await self._answer(wire.Pong(event.text))
        return None

    async def _answer(self, event: wire.ServerEvent) -> None:
        with contextlib.suppress(ConnectionError):  # reading on says the same
            await self.write(event)

    async def write(self, event: wire.ServerEvent) -> None:
        """Send an event; returns when there is room for more.

        Raises:
            ConnectionError: the client is gone.
        """
        self._writer.write(wire.encode(event))
        await self._writer.drain()

    async def refuse(self, error: BaseException) -> None:
        """Say what is wrong and close. Never raises."""
        message = error_message(error)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.write(wire.Failure(message.message, message.code))
        self.close()

    def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        self._writer.close()


class Utterance:
    """The client of one session: from its first audio to its transcript.

    Args:
        connection: on which it is said.
        first: the event that began it.

    Raises:
        InvalidField: its audio is of a kind that is not taken.
    """

    def __init__(self, connection: Connection, first: _Audio) -> None:
        self._connection = connection
        self._format = None if isinstance(first, wire.AudioStop) else _format(first)
        self._inputs: deque[_Input] = deque([self._start(connection.language)])
        self._stopped = False
        self._has_started = False
        self._words = GrowingText()
        self._language: str | None = None
        self._take(first)

    def _start(self, language: str | None) -> Start:
        if self._format is None:
            return Start(language=language)
        rate, channels = self._format
        return Start(sample_rate=cast(SampleRate, rate), channels=channels, language=language)

    def _take(self, event: _Audio) -> None:
        if isinstance(event, wire.AudioStop):
            self._stopped = True
            self._inputs.append(Stop())
        elif _format(event) != self._format:
            raise InvalidField("the format of the audio changed in an utterance", field="rate")
        elif isinstance(event, wire.AudioChunk) and event.audio:
            self._inputs.append(event.audio)

    async def receive(self) -> _Input | None:
        """Return what the session has to take next; none when the client is gone.

        After ``audio-stop`` nothing is read: what follows is of the next utterance.

        Raises:
            RemoteProtocolError: something came that is not an event.
            InvalidField: its audio is of another kind than before.
        """
        while not self._inputs:
            if self._stopped:
                await asyncio.Event().wait()
            event = await self._connection.read()
            if event is None:
                return None
            self._take(event)
        return self._inputs.popleft()

    async def send(self, message: ServerMessage) -> None:
        """Say what ``message`` means.

        Raises:
            ConnectionError: the client is gone.
        """
        match message:
            case SpeechStarted():
                self._words.begin(message.segment)
            case Partial():
                await self._grow(self._words.grow(message))
            case Final():
                self._language = self._language or message.language
                await self._grow(self._words.finish(message))
            case Error():
                await self._connection.write(wire.Failure(message.message, message.code))
            case Done():
                await self._begin()
                await self._connection.write(wire.Transcript(self._words.text, self._language))
                await self._connection.write(wire.TranscriptStop())

    async def _grow(self, more: str) -> None:
        if more:
            await self._begin()
            await self._connection.write(wire.TranscriptChunk(more))

    async def _begin(self) -> None:
        if not self._has_started:
            self._has_started = True
            await self._connection.write(wire.TranscriptStart())

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, unless all is well and another utterance may follow."""
        if code != 1000:
            self._connection.close()

    async def dismiss(self, error: DiffscribeError) -> None:
        """Say ``error`` and close. Never raises."""
        await self._connection.refuse(error)


def _format(event: wire.AudioStart | wire.AudioChunk) -> tuple[int, int]:
    """Return hertz and channels."""
    allowed: dict[str, tuple[int, ...]] = {
        "rate": get_args(SampleRate),
        "width": (_WIDTH,),
        "channels": (1, 2),
    }
    for name, values in allowed.items():
        value = getattr(event, name)
        if value not in values:
            text = f"{name} is {value}; allowed: {', '.join(map(str, values))}"
            raise InvalidField(text, field=name)
    return event.rate, event.channels


class WyomingServer:
    """Every connection of the port.

    Args:
        admission: the door.
        metrics: where refusals are counted.
        limits: of messages and of silence.
        info: what ``describe`` is answered.
    """

    def __init__(
        self, admission: Admission, metrics: Metrics, limits: LimitsConfig, info: wire.Info
    ) -> None:
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._info = info
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Take connections.

        Args:
            listener: listening already; closed by :meth:`close`.
        """
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=wire.MAX_HEADER)

    async def close(self) -> None:
        """Take no more connections and end those there are."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        connection = Connection(reader, writer, self._info, self._limits.max_message_bytes)
        try:
            while (first := await self._next(connection)) is not None:
                await self._transcribe(connection, first)
        except (DiffscribeError, RemoteProtocolError) as error:
            self._metrics.record_session_refused()
            self._metrics.record_error(error_message(error).code)
            await connection.refuse(error)
        except asyncio.CancelledError:
            pass  # the server stops; nobody waits for this task but `close`
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._running.discard(task)
            connection.close()

    async def _next(self, connection: Connection) -> _Audio | None:
        idle_ms = self._limits.idle_timeout_ms
        try:
            async with asyncio.timeout(idle_ms / 1000 if idle_ms else None):
                return await connection.read()
        except TimeoutError:
            return None

    async def _transcribe(self, connection: Connection, first: _Audio) -> None:
        utterance = Utterance(connection, first)
        with self._admission.admit(utterance) as services:
            session_id = uuid.uuid4().hex
            with structlog.contextvars.bound_contextvars(session=session_id):
                await run_session(utterance, services, session_id, self._admission.meter(ANYONE))


__all__ = ["Connection", "Utterance", "WyomingServer", "info_event"]

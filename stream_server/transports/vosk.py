"""Vosk's WebSocket protocol: audio in, exactly one text message out for each message of audio.

Its clients send a piece, wait for the answer and only then send the next, so an answer never waits
for the engine: it is the newest partial, or the finals since the last answer. Text is lower case
and without punctuation, as Vosk's is. There is no negotiation, no error message and no close code
in this protocol; what goes wrong closes the connection with a code and a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections import deque
from dataclasses import dataclass
from typing import cast, get_args

import msgspec
import structlog
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    CLOCK_RATE,
    ClientMessage,
    Done,
    Final,
    Flush,
    Flushed,
    Partial,
    SampleRate,
    ServerMessage,
    Start,
    Stop,
)
from stream_server.errors import DiffscribeError, InvalidField, wire_error
from stream_server.metrics import Metrics
from stream_server.session.driver import run_session
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.socket import GRACE_SECONDS, Socket, refuse

PATHS = ("/", "/vosk", "/vosk/{language}")
"""The first is what Vosk's own clients are set to."""

_DEFAULT_RATE = 8000
"""Hertz where the client says nothing, as Vosk's server has it."""
_PUNCTUATION = re.compile(r"^\W+|\W+$")

_Input = ClientMessage | bytes
"""What a session of ours takes."""


class _Config(msgspec.Struct, frozen=True):
    """What a client may set; all else that it sets is let pass."""

    sample_rate: float | None = None
    """Hertz; some clients send 48000.0."""
    words: bool | int | None = None
    max_alternatives: int | None = None


class _Request(msgspec.Struct, frozen=True):
    """Any text message of a client."""

    config: _Config | None = None
    eof: int | None = None
    reset: int | None = None


class _Word(msgspec.Struct, frozen=True):
    conf: float
    """0 to 1."""
    end: float
    """Seconds from the start of the stream."""
    start: float
    """Seconds from the start of the stream."""
    word: str


class _Partial(msgspec.Struct, frozen=True):
    partial: str


class _Result(msgspec.Struct, frozen=True, omit_defaults=True):
    text: str
    result: list[_Word] = []


class _Alternative(msgspec.Struct, frozen=True, omit_defaults=True):
    confidence: float
    text: str
    result: list[_Word] = []


class _Alternatives(msgspec.Struct, frozen=True):
    alternatives: tuple[_Alternative, ...]


_Reply = _Partial | _Result | _Alternatives


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a message means."""

    inputs: tuple[_Input, ...] = ()
    reply: _Reply | None = None


class Dialogue:
    """What one Vosk client and one session of ours say to each other. Pure.

    Args:
        language: ISO 639-1 code; none lets the model decide.
    """

    def __init__(self, language: str | None = None) -> None:
        self._language = language
        self._rate = _DEFAULT_RATE
        self._has_words = True
        self._has_alternatives = False
        self._is_started = False
        self._partial = ""
        self._segment = -1
        """The one that the partial is of."""
        self._finals: list[Final] = []
        """Since the last answer."""
        self._resets = 0
        """Whose answer is due."""

    def take(self, data: str | bytes) -> _Taken:
        """Return what a message means to our session, and what is answered at once.

        Raises:
            RemoteProtocolError: it is a text that is none of Vosk's.
            InvalidField: a field has a value that cannot be.
        """
        if isinstance(data, bytes):
            return _Taken((*self._start(), data) if data else (), self._answer())
        try:
            request = msgspec.json.decode(data, type=_Request)
        except (ValueError, RecursionError):
            raise RemoteProtocolError(
                "bad_message",
                'a text message is {"config": {...}}, {"reset": 1} or {"eof": 1}',
                close_code=1007,
            ) from None
        if request.config is not None:
            self._configure(request.config)
            return _Taken()
        if request.eof:
            return _Taken((*self._start(), Stop()))
        if request.reset:
            self._resets += 1
            return _Taken((*self._start(), Flush()))
        return _Taken()

    def show(self, message: ServerMessage) -> _Reply | None:
        """Return what a message of our session makes us say unasked."""
        match message:
            case Partial():
                self._partial, self._segment = message.stable + message.tentative, message.segment
            case Final():
                self._finals.append(message)
                if message.segment == self._segment:
                    self._partial = ""
            case Flushed():
                self._resets -= 1
                return self._result()
            case Done():
                return self._result()
        return None

    def _configure(self, config: _Config) -> None:
        if config.words is not None:
            self._has_words = bool(config.words)
        if config.max_alternatives is not None:
            self._has_alternatives = config.max_alternatives > 0
        if config.sample_rate is None or self._is_started:
            return  # Vosk's server, too, takes the rate only before the first audio
        if config.sample_rate not in get_args(SampleRate):
            raise InvalidField(
                f"sample_rate is {config.sample_rate:g}; allowed: "
                + ", ".join(map(str, get_args(SampleRate))),
                field="config.sample_rate",
            )
        self._rate = int(config.sample_rate)

    def _start(self) -> tuple[_Input, ...]:
        if self._is_started:
            return ()
        self._is_started = True
        rate = cast(SampleRate, self._rate)
        return (Start(sample_rate=rate, language=self._language, words=True),)

    def _answer(self) -> _Reply:
        """Answer a message of audio."""
        if self._finals and not self._resets:
            return self._result()
        return _Partial(" ".join(_plain(self._partial.split())))

    def _result(self) -> _Reply:
        finals, self._finals = self._finals, []
        words = [
            _Word(
                round(each.confidence, 6),
                round(each.end / CLOCK_RATE, 3),
                round(each.start / CLOCK_RATE, 3),
                text,
            )
            for final in finals
            for each in final.words or ()
            for text in _plain([each.text])
        ]
        text = " ".join(word for final in finals for word in _plain(final.text.split()))
        shown = words if self._has_words and text else []
        if not self._has_alternatives:
            return _Result(text, shown)
        confidence = sum(word.conf for word in words) / len(words) if words else 0.0
        return _Alternatives((_Alternative(round(confidence, 6), text, shown),))


def _plain(words: list[str]) -> list[str]:
    """Return the words as Vosk writes them; those of punctuation alone are left out."""
    bare = (_PUNCTUATION.sub("", word).lower() for word in words)
    return [word for word in bare if word]


class VoskPeer:
    """The client of one session.

    Args:
        socket: its connection.
        language: ISO 639-1 code; none lets the model decide.
    """

    def __init__(self, socket: Socket, language: str | None) -> None:
        self._socket = socket
        self._dialogue = Dialogue(language)
        self._inputs: deque[_Input] = deque()

    async def receive(self) -> _Input | None:
        """Return what the session has to take next; none when the client is gone.

        Raises:
            RemoteProtocolError: it sent something that is not legal.
            DiffscribeError: a value cannot be, or a message is too large.
        """
        while not self._inputs:
            data = await self._socket.receive()
            if data is None:
                return None
            taken = self._dialogue.take(data)
            self._inputs.extend(taken.inputs)
            with contextlib.suppress(ConnectionError):  # reading on says the same
                await self._say(taken.reply)
        return self._inputs.popleft()

    async def send(self, message: ServerMessage) -> None:
        """Take note of ``message``; it is said when it is its turn.

        Raises:
            ConnectionError: the client is gone.
        """
        await self._say(self._dialogue.show(message))

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; harmless if it is closed."""
        await self._socket.close(code, reason)

    async def dismiss(self, error: DiffscribeError) -> None:
        """Close the connection. Never raises."""
        form = wire_error(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.close(form.close_code, form.code)

    async def _say(self, reply: _Reply | None) -> None:
        if reply is not None:
            await self._socket.send(msgspec.json.encode(reply).decode())


class VoskEndpoint:
    """Lets a client in, or says before the upgrade why not.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: where refusals are counted.
        max_message_bytes: of one WebSocket message.
    """

    def __init__(
        self, admission: Admission, keys: Keys, metrics: Metrics, max_message_bytes: int
    ) -> None:
        self._admission = admission
        self._keys = keys
        self._metrics = metrics
        self._max_bytes = max_message_bytes

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        language = websocket.path_params.get("language")
        peer = VoskPeer(Socket(websocket, self._max_bytes), language)
        with contextlib.ExitStack() as stack:
            try:
                self._keys.check(websocket)
                if websocket.scope.get("subprotocols"):
                    raise RemoteProtocolError(
                        "bad_message",
                        "Vosk's protocol is spoken here, which has no subprotocols; "
                        "diffscribe's own is at /v1/stream",
                    )
                services = stack.enter_context(self._admission.admit(peer))
            except (DiffscribeError, RemoteProtocolError) as error:
                await refuse(websocket, error, self._metrics)
                return
            session_id = uuid.uuid4().hex
            with structlog.contextvars.bound_contextvars(session=session_id):
                await websocket.accept()
                await run_session(peer, services, session_id)


def routes(
    admission: Admission, keys: Keys, metrics: Metrics, max_message_bytes: int
) -> list[BaseRoute]:
    """Return the routes of the API.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: where refusals are counted.
        max_message_bytes: of one WebSocket message.
    """
    endpoint = VoskEndpoint(admission, keys, metrics, max_message_bytes)
    return [WebSocketRoute(path, endpoint.__call__) for path in PATHS]


__all__ = ["PATHS", "Dialogue", "VoskEndpoint", "VoskPeer", "routes"]

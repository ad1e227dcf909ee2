"""Vosk's WebSocket protocol: audio in, exactly one text message out for each message of audio.

Its clients send a piece, wait for the answer and only then send the next, so an answer never waits
for the engine: it is the newest partial, or the finals since the last answer. Text is lower case
and without punctuation, as Vosk's is. There is no negotiation, no error message and no close code
in this protocol; what goes wrong closes the connection with a code and a reason.
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
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
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports.dialect import (
    NOTHING,
    Api,
    Call,
    Dialect,
    DialectEndpoint,
    Heard,
)
from stream_server.transports.door import Door
from stream_server.transports.words import bare, seconds

PATHS = ("/", "/vosk", "/vosk/{language}")
"""The first is what Vosk's own clients are set to."""

_DEFAULT_RATE = 8000
"""Hertz where the client says nothing, as Vosk's server has it."""


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

    def open(self) -> Heard:
        """Wait for the client."""
        return NOTHING

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client; audio is answered at once.

        Raises:
            RemoteProtocolError: it is a text that is none of Vosk's.
            InvalidField: a field has a value that cannot be.
        """
        if isinstance(frame, bytes):
            return Heard((*self._start(), frame) if frame else (), [self._answer()])
        try:
            request = msgspec.json.decode(frame, type=_Request)  # a phrase list may be long
        except (ValueError, RecursionError):
            raise RemoteProtocolError(
                "bad_message",
                'a text message is {"config": {...}}, {"reset": 1} or {"eof": 1}',
                close_code=1007,
            ) from None
        if request.config is not None:
            self._configure(request.config)
            return NOTHING
        if request.eof:
            return Heard((*self._start(), Stop()))
        if request.reset:
            self._resets += 1
            return Heard((*self._start(), Flush()))
        return NOTHING

    def tell(self, message: ServerMessage) -> list[_Reply]:
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
                return [self._result()]
            case Done():
                return [self._result()]
        return []

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return both as they are: there is no other way to say what went wrong."""
        return code, reason

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

    def _start(self) -> tuple[Start, ...]:
        if self._is_started:
            return ()
        self._is_started = True
        rate = cast(SampleRate, self._rate)
        return (Start(sample_rate=rate, language=self._language, words=True),)

    def _answer(self) -> _Reply:
        """Answer a message of audio."""
        if self._finals and not self._resets:
            return self._result()
        return _Partial(bare(self._partial))

    def _result(self) -> _Reply:
        finals, self._finals = self._finals, []
        words = [
            _Word(
                round(each.confidence, 6),
                seconds(each.end),
                seconds(each.start),
                text,
            )
            for final in finals
            for each in final.words or ()
            if (text := bare(each.text))
        ]
        text = bare(" ".join(final.text for final in finals))
        shown = words if self._has_words and text else []
        if not self._has_alternatives:
            return _Result(text, shown)
        confidence = sum(word.conf for word in words) / len(words) if words else 0.0
        return _Alternatives((_Alternative(round(confidence, 6), text, shown),))


class VoskApi(Api):
    """Vosk's protocol."""

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client.

        Raises:
            RemoteProtocolError: it offers subprotocols.
        """
        if connection.scope.get("subprotocols"):
            raise RemoteProtocolError(
                "bad_message",
                "Vosk's protocol is spoken here, which has no subprotocols; "
                "diffscribe's own is at /v1/stream",
            )
        return Dialogue(connection.path_params.get("language"))


def routes(door: Door) -> list[BaseRoute]:
    """Return the routes of the API."""
    endpoint = DialectEndpoint(VoskApi(), door)
    return [WebSocketRoute(path, endpoint.__call__) for path in PATHS]


__all__ = ["PATHS", "Dialogue", "VoskApi", "routes"]

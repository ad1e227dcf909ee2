"""AssemblyAI's streaming API, v3: ``/v3/ws``.

A turn ends at a pause. ``transcript`` holds what does not change before the end of a segment,
``words`` also what may; a turn's end comes once as it was spoken and, where ``format_turns`` is on,
again with case and punctuation. Parameters are named as the Python client sends them: booleans as
``True``, lists as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute

from stream_protocol import messages as native
from stream_protocol.messages import Endpointing, SampleRate, Word
from stream_server.errors import InvalidField, error_message, wire_error
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports.answers import json_response
from stream_server.transports.dialect import (
    NOTHING,
    Api,
    Call,
    Dialect,
    DialectEndpoint,
    Heard,
    read_control,
)
from stream_server.transports.door import Door
from stream_server.transports.opening import Announced, AudioFormat, Inlet
from stream_server.transports.turns import Cuts, Turn
from stream_server.transports.words import bare, milliseconds

PATH: Final = "/v3/ws"

_RAW: Final[Mapping[str, native.Encoding]] = {"pcm_s16le": "pcm_s16le", "pcm_mulaw": "mulaw"}
_SHORTEST_MS, _LONGEST_MS = 300, 5_000
"""Milliseconds of silence that may end a turn."""
_SESSION_SECONDS: Final = 3 * 3600
"""When clients are told that a session expires, as AssemblyAI does; nothing happens then."""
_CLOSINGS = {
    # code of ours -> theirs
    "done": 1000,
    "bad_audio": 3006,
    "bad_message": 4100,
    "invalid_field": 4101,
    "timeout": 4031,
    "limit": 3008,
    "overloaded": 1013,
    "internal": 3005,
}


class _Begin(msgspec.Struct, frozen=True, tag="Begin", tag_field="type"):
    id: str
    expires_at: int
    """Unix seconds."""


class _Word(msgspec.Struct, frozen=True):
    text: str
    start: int
    """Milliseconds."""
    end: int
    """Milliseconds."""
    confidence: float
    word_is_final: bool


class _Turn(msgspec.Struct, frozen=True, tag="Turn", tag_field="type"):
    turn_order: int
    turn_is_formatted: bool
    end_of_turn: bool
    transcript: str
    end_of_turn_confidence: float
    """1 where a pause has ended the turn, else 0: there is nothing between."""
    words: list[_Word]
    language_code: str | None


class _SpeechStarted(msgspec.Struct, frozen=True, tag="SpeechStarted", tag_field="type"):
    timestamp: int
    """Milliseconds."""


class _Error(msgspec.Struct, frozen=True, tag="Error", tag_field="type"):
    error_code: int
    error: str


class _Termination(msgspec.Struct, frozen=True, tag="Termination", tag_field="type"):
    audio_duration_seconds: int
    session_duration_seconds: int


class _Refusal(msgspec.Struct, frozen=True):
    error: str
    error_code: int


class _Control(msgspec.Struct, frozen=True):
    type: str
    min_turn_silence: int | None = None
    min_end_of_turn_silence_when_confident: int | None = None
    max_turn_silence: int | None = None
    format_turns: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What may change while a session runs."""

    min_silence_ms: int = Endpointing().silence_ms
    max_silence_ms: int = _LONGEST_MS
    is_formatted: bool = False

    @property
    def endpointing(self) -> Endpointing:
        """The session's form of it: silence alone ends a turn, so the shorter one counts."""
        silence = min(self.min_silence_ms, self.max_silence_ms)
        return Endpointing(silence_ms=min(max(silence, _SHORTEST_MS), _LONGEST_MS))


@dataclass(frozen=True, slots=True)
class Query:
    """``/v3/ws``."""

    audio: Announced
    language: str | None
    settings: Settings


def read_query(query: QueryParams, info: RecogniserInfo) -> Query:
    """Read the parameters of a connection; those that mean nothing here are passed over.

    Raises:
        InvalidField: one that means something has a wrong value.
    """
    settings = Settings()
    shortest = query.get("min_turn_silence") or query.get("min_end_of_turn_silence_when_confident")
    formatted = query.get("format_turns", "").lower()
    if formatted not in ("", "true", "false"):
        raise InvalidField(f"{formatted[:20]!r} is neither true nor false", field="format_turns")
    return Query(
        audio=_read_audio(query),
        language=_read_language(query, info),
        settings=replace(
            settings,
            min_silence_ms=_read_silence("min_turn_silence", shortest, settings.min_silence_ms),
            max_silence_ms=_read_silence(
                "max_turn_silence", query.get("max_turn_silence"), settings.max_silence_ms
            ),
            is_formatted=formatted == "true",
        ),
    )


def _read_audio(query: QueryParams) -> Announced:
    name = query.get("encoding") or "pcm_s16le"
    if name == "opus":
        return Announced(None, is_packets=True)
    if name == "ogg_opus":
        return Announced(AudioFormat("ogg"))
    if name not in _RAW:
        allowed = ", ".join([*_RAW, "opus", "ogg_opus"])
        raise InvalidField(f"{name[:20]!r} is not one of {allowed}", field="encoding")
    rates = get_args(SampleRate)
    rate = query.get("sample_rate") or "16000"
    if rate not in map(str, rates):
        raise InvalidField(
            f"{rate[:20]!r} is not one of {', '.join(map(str, rates))}", field="sample_rate"
        )
    return Announced(AudioFormat(_RAW[name], int(rate)))


def _read_language(query: QueryParams, info: RecogniserInfo) -> str | None:
    code = query.get("language_code") or query.get("language") or ""
    if listed := query.get("language_codes"):
        try:
            codes = msgspec.json.decode(listed, type=list[str])
        except (ValueError, RecursionError):
            raise InvalidField("a JSON list of codes is expected", field="language_codes") from None
        code = codes[0] if len(codes) == 1 else ""
    code = code.replace("_", "-").partition("-")[0].lower()
    if code in ("", "multi"):
        return None
    if info.languages and code not in info.languages:
        raise InvalidField(
            f"{code[:20]!r} is not a language of the model, which knows "
            f"{', '.join(info.languages)}",
            field="language_codes",
        )
    return code


def _read_silence(name: str, text: str | None, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InvalidField(f"{text[:20]!r} is not a number of milliseconds", field=name)
    return int(text)


class AssemblyAiDialect:
    """The translator of one session.

    Args:
        query: what the client asked for.
        call: the connection.
    """

    def __init__(self, query: Query, call: Call) -> None:
        self._settings = query.settings
        self._language = query.language
        self._call = call
        self._opened = call.clock()
        self._inlet = Inlet(query.audio, self._make_start)
        self._is_stopping = False
        self._flushes = 0
        """Turns that the client wants ended."""
        self._cuts = Cuts()
        self._turn = Turn()
        self._is_undecided = False
        """Whether the turn is over, by a pause or by the client's wish."""

    def open(self) -> Heard:
        """Open the session; ``Begin`` follows when it is open."""
        expires = int(self._call.began.timestamp()) + _SESSION_SECONDS
        return Heard(self._inlet.open(), [_Begin(self._call.request_id, expires)])

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client.

        Raises:
            BadAudio: it is nothing that can be decoded.
            RemoteProtocolError: it is text, but no message.
        """
        if self._is_stopping:
            return NOTHING
        if isinstance(frame, bytes):
            return Heard(self._inlet.feed(frame)) if frame else NOTHING
        control = read_control(frame, _Control)
        is_started = self._inlet.format is not None
        match control.type:
            case "Terminate":
                self._is_stopping = True
                return Heard(self._inlet.stop())
            case "ForceEndpoint" if is_started:
                self._flushes += 1
                return Heard([native.Flush()])
            case "KeepAlive" if is_started:
                return Heard([native.Configure()])
            case "UpdateConfiguration":
                self._configure(control)
                change = native.Configure(endpointing=self._settings.endpointing)
                return Heard([change] if is_started else [])
        return NOTHING

    def tell(self, message: native.ServerMessage) -> Sequence[msgspec.Struct]:
        """Return what the client is told of a message of the session."""
        match message:
            case native.SpeechStarted():
                goes_on = self._cuts.started(message)
                ended = self._end() if self._is_undecided and not goes_on else []
                return [*ended, _SpeechStarted(milliseconds(message.at))]
            case native.SpeechEnded():
                self._cuts.ended(message)
            case native.Partial() if self._turn.take_partial(message):
                return [self._report()]
            case native.Final():
                return self._final(message)
            case native.Flushed():
                self._flushes -= 1
                return self._end() if self._turn.is_open else []
            case native.Error() if message.fatal:
                return [_Error(_CLOSINGS.get(message.code, 3006), message.message)]
            case native.Done():
                ended = self._end() if self._turn.is_open else []
                return [*ended, self._termination(message)]
        return []

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return AssemblyAI's close code and reason."""
        return _CLOSINGS.get(reason, code), "" if reason == "done" else reason

    def _make_start(self, audio: AudioFormat) -> native.Start:
        return audio.start(
            endpointing=self._settings.endpointing,
            language=self._language,
            partial_interval_ms=native.Start().partial_interval_ms,
        )

    def _configure(self, control: _Control) -> None:
        shortest = control.min_turn_silence
        if shortest is None:
            shortest = control.min_end_of_turn_silence_when_confident
        changes = {
            "min_silence_ms": shortest,
            "max_silence_ms": control.max_turn_silence,
            "is_formatted": control.format_turns,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        self._settings = replace(self._settings, **given)  # type: ignore[arg-type]

    def _final(self, final: native.Final) -> list[msgspec.Struct]:
        was_cut = self._cuts.pop(final.segment)
        self._turn.take_final(final)
        if not self._turn.is_open:
            return []  # it was noise
        # What the client wants ended may be this, or what it says after this.
        self._is_undecided = bool(self._flushes) and self._cuts.is_newest(final.segment)
        return [self._report()] if was_cut or self._is_undecided else self._end()

    def _end(self) -> list[msgspec.Struct]:
        self._is_undecided = False
        ended: list[msgspec.Struct] = [self._report(is_end=True)]
        if self._settings.is_formatted:
            ended.append(self._report(is_end=True, is_formatted=True))
        self._turn = self._turn.next()
        return ended

    def _report(self, *, is_end: bool = False, is_formatted: bool = False) -> _Turn:
        turn = self._turn
        text = turn.text if is_end else turn.stable_text
        finished = len(turn.words) if is_end else turn.finished_words
        return _Turn(
            turn_order=turn.index,
            turn_is_formatted=is_formatted,
            end_of_turn=is_end,
            transcript=text if is_formatted else bare(text),
            end_of_turn_confidence=float(is_end),
            words=[
                _shown(word, is_final=number < finished, is_formatted=is_formatted)
                for number, word in enumerate(turn.words)
            ],
            language_code=turn.language,
        )

    def _termination(self, done: native.Done) -> _Termination:
        open_for = round(self._call.clock() - self._opened)
        return _Termination(round(milliseconds(done.samples) / 1000), open_for)


def _shown(word: Word, *, is_final: bool, is_formatted: bool) -> _Word:
    return _Word(
        word.text if is_formatted else bare(word.text) or word.text,
        milliseconds(word.start),
        milliseconds(word.end),
        round(word.confidence, 4),
        is_final,
    )


class AssemblyAiApi(Api):
    """``/v3/ws``."""

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client."""
        return AssemblyAiDialect(read_query(connection.query_params, info), call)

    def refuse(self, error: Exception, call: Call) -> Response:
        """Return the answer to a client that is not let in."""
        wire, message = wire_error(error), error_message(error)
        text = f"{message.field}: {message.message}" if message.field else message.message
        code = 4001 if wire.http_status == 401 else _CLOSINGS.get(wire.code, 3006)
        return json_response(_Refusal(text, code), wire.http_status)


def routes(door: Door) -> list[BaseRoute]:
    """Return the routes of the API."""
    return [WebSocketRoute(PATH, DialectEndpoint(AssemblyAiApi(), door).__call__)]


__all__ = [
    "PATH",
    "AssemblyAiApi",
    "AssemblyAiDialect",
    "Query",
    "Settings",
    "read_query",
    "routes",
]

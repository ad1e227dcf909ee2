"""Speechmatics' realtime API: ``/v2``.

The client says everything in its first message, ``StartRecognition``; each message of audio is
answered by ``AudioAdded``. Finals come a segment at a time, and a segment that ends at a pause is
the end of an utterance for clients that asked for those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, get_args

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute

from stream_protocol import messages as native
from stream_protocol.errors import RemoteProtocolError
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
from stream_server.transports.turns import Cuts
from stream_server.transports.words import partial_words, seconds

PATH: Final = "/v2"

_RAW: Final[Mapping[str, native.Encoding]] = {
    "pcm_s16le": "pcm_s16le",
    "pcm_f32le": "pcm_f32le",
    "mulaw": "mulaw",
}
_FORMAT: Final = "2.9"
"""Version of the transcripts' form."""
_SHORTEST_MS, _LONGEST_MS = 300, 5_000
"""Milliseconds of silence that may end an utterance."""
_MARKS: Final = re.compile(r"[.,!?;:…。，、！？；：]+$")
"""Punctuation that is reported as results of its own."""
_ENDS: Final = frozenset(".!?…。！？")
_TYPES: Final = {
    # code of ours -> type of theirs, close code
    "bad_message": ("invalid_message", 1008),
    "invalid_field": ("invalid_config", 1008),
    "wrong_state": ("protocol_error", 1002),
    "too_large": ("buffer_error", 1009),
    "bad_audio": ("data_error", 1003),
    "unauthorized": ("not_authorised", 4001),
    "overloaded": ("quota_exceeded", 4005),
    "draining": ("job_error", 4013),
    "timeout": ("idle_timeout", 4006),
    "limit": ("timelimit_exceeded", 4007),
}
_UNKNOWN: Final = ("unknown_error", 1011)


# --- what clients say -----------------------------------------------------------------------------


class _AudioFormat(msgspec.Struct, frozen=True):
    type: str
    encoding: str = ""
    sample_rate: int = 0


class _Conversation(msgspec.Struct, frozen=True):
    end_of_utterance_silence_trigger: float | None = None


class _Config(msgspec.Struct, frozen=True):
    language: str | None = None
    enable_partials: bool | None = None
    conversation_config: _Conversation | None = None
    diarization: str | None = None


class _Control(msgspec.Struct, frozen=True):
    message: str
    audio_format: _AudioFormat | None = None
    transcription_config: _Config | None = None
    translation_config: object = None
    audio_events_config: object = None


# --- what the server says -------------------------------------------------------------------------


class _LanguagePack(msgspec.Struct, frozen=True):
    adapted: bool
    itn: bool
    language_description: str
    word_delimiter: str
    writing_direction: str


class _RecognitionStarted(
    msgspec.Struct, frozen=True, tag="RecognitionStarted", tag_field="message"
):
    id: str
    language_pack_info: _LanguagePack


class _AudioAdded(msgspec.Struct, frozen=True, tag="AudioAdded", tag_field="message"):
    seq_no: int


class _Alternative(msgspec.Struct, frozen=True):
    content: str
    confidence: float
    language: str


class _Result(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    start_time: float
    end_time: float
    alternatives: list[_Alternative]
    attaches_to: str | None = None
    is_eos: bool = False


class _TranscriptMetadata(msgspec.Struct, frozen=True):
    transcript: str
    """With a space after it, so that transcripts can be joined."""
    start_time: float
    end_time: float


class _Transcript(msgspec.Struct, frozen=True):
    metadata: _TranscriptMetadata
    results: list[_Result]
    format: str = _FORMAT


class _AddPartialTranscript(
    _Transcript, frozen=True, tag="AddPartialTranscript", tag_field="message"
):
    pass


class _AddTranscript(_Transcript, frozen=True, tag="AddTranscript", tag_field="message"):
    pass


class _UtteranceMetadata(msgspec.Struct, frozen=True):
    start_time: float
    end_time: float


class _EndOfUtterance(msgspec.Struct, frozen=True, tag="EndOfUtterance", tag_field="message"):
    metadata: _UtteranceMetadata


class _EndOfTranscript(msgspec.Struct, frozen=True, tag="EndOfTranscript", tag_field="message"):
    pass


class _Warning(msgspec.Struct, frozen=True, tag="Warning", tag_field="message"):
    type: str
    reason: str


class _Error(msgspec.Struct, frozen=True, tag="Error", tag_field="message"):
    type: str
    reason: str


class SpeechmaticsDialect:
    """The translator of one session.

    Args:
        call: the connection.
        info: the model.
    """

    def __init__(self, call: Call, info: RecogniserInfo) -> None:
        self._call = call
        self._info = info
        self._config = _Config()
        self._inlet: Inlet | None = None
        """None before ``StartRecognition``."""
        self._added = 0
        """Messages of audio."""
        self._is_stopping = False
        self._flushes = 0
        self._cuts = Cuts()
        self._is_undecided = False
        """Whether the last utterance is over, by a pause or by the client's wish."""
        self._ended = 0
        """Samples; the end of the last final."""

    def open(self) -> Heard:
        """Return nothing: the client speaks first."""
        return NOTHING

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client.

        Raises:
            InvalidField: what it asks for is not to be had here.
            BadAudio: it is nothing that can be decoded.
            RemoteProtocolError: it is no message, or may not be sent now.
        """
        if self._is_stopping:
            return NOTHING
        if isinstance(frame, bytes):
            return self._add(frame)
        control = read_control(frame, _Control)
        if self._inlet is None:
            return self._start(control)
        return self._obey(control, self._inlet)

    def tell(self, message: native.ServerMessage) -> Sequence[msgspec.Struct]:
        """Return what the client is told of a message of the session."""
        match message:
            case native.SpeechStarted():
                return self._start_speech(message)
            case native.SpeechEnded():
                self._cuts.ended(message)
            case native.Partial():
                text, words = message.stable + message.tentative, partial_words(message)
                return [
                    _AddPartialTranscript(
                        *self._transcript(text, words, message.start, message.end)
                    )
                ]
            case native.Final():
                return self._final(message)
            case native.Flushed():
                self._flushes -= 1
                self._is_undecided = False
                return [self._end_of_utterance(message.position)]
            case native.Error() if message.fatal:
                return [_Error(_TYPES.get(message.code, _UNKNOWN)[0], message.message)]
            case native.Done():
                return [_EndOfTranscript()]
        return []

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return Speechmatics' close code and reason."""
        if reason == "done":
            return 1000, ""
        kind, close = _TYPES.get(reason, _UNKNOWN)
        return close, kind

    # --- in -----------------------------------------------------------------------------------

    def _start(self, control: _Control) -> Heard:
        if control.message != "StartRecognition":
            raise RemoteProtocolError(
                "wrong_state", "the first message must be StartRecognition", close_code=1002
            )
        for name, value in (
            ("translation_config", control.translation_config),
            ("audio_events_config", control.audio_events_config),
        ):
            if value is not None:
                raise InvalidField("not to be had from this server: leave it out", field=name)
        self._config = self._checked(control.transcription_config or _Config())
        audio = control.audio_format or _AudioFormat("file")
        self._inlet = Inlet(_announced(audio), self._make_start)
        started = _RecognitionStarted(self._call.request_id, self._language_pack())
        return Heard(self._inlet.open(), [started])

    def _add(self, frame: bytes) -> Heard:
        if self._inlet is None:
            raise RemoteProtocolError(
                "wrong_state", "audio may come after RecognitionStarted", close_code=1002
            )
        self._added += 1
        heard = self._inlet.feed(frame) if frame else []
        return Heard(heard, [_AudioAdded(self._added)])

    def _obey(self, control: _Control, inlet: Inlet) -> Heard:
        is_started = inlet.format is not None
        match control.message:
            case "EndOfStream":
                self._is_stopping = True
                return Heard(inlet.stop())
            case "ForceEndOfUtterance" if is_started:
                self._flushes += 1
                return Heard([native.Flush()])
            case "SetRecognitionConfig":
                new = self._checked(control.transcription_config or _Config())
                self._config = _merged(self._config, new)
                change = native.Configure(
                    self._endpointing(), self._language, self._partial_interval_ms
                )
                return Heard([change] if is_started else [])
            case "StartRecognition":
                raise RemoteProtocolError(
                    "wrong_state", "StartRecognition may be sent only once", close_code=1002
                )
            case "GetSpeakers" | "AddChannelAudio" | "EndOfChannel":
                reason = f"{control.message} is not served here: speakers are not told apart"
                return Heard(replies=[_Warning("unsupported_message", reason)])
        return NOTHING

    def _checked(self, config: _Config) -> _Config:
        code = _language_code(config.language)
        if code and self._info.languages and code not in self._info.languages:
            raise InvalidField(
                f"{code[:20]!r} is not a language of the model, which knows "
                f"{', '.join(self._info.languages)}",
                field="transcription_config.language",
            )
        if config.diarization not in (None, "none", "speaker"):
            raise InvalidField(
                "channels are mixed here: use 'none'", field="transcription_config.diarization"
            )
        trigger = (config.conversation_config or _Conversation()).end_of_utterance_silence_trigger
        if trigger is not None and not 0 <= trigger <= 2:
            raise InvalidField(
                f"{trigger} is not within 0 and 2 seconds",
                field="conversation_config.end_of_utterance_silence_trigger",
            )
        return config

    def _make_start(self, audio: AudioFormat) -> native.Start:
        return audio.start(
            endpointing=self._endpointing(),
            language=self._language,
            partial_interval_ms=self._partial_interval_ms,
        )

    @property
    def _language(self) -> str | None:
        return _language_code(self._config.language)

    @property
    def _partial_interval_ms(self) -> int:
        return native.Start().partial_interval_ms if self._config.enable_partials else 0

    @property
    def _trigger(self) -> float:
        """Seconds of silence that end an utterance; 0 where the client did not ask."""
        conversation = self._config.conversation_config or _Conversation()
        return conversation.end_of_utterance_silence_trigger or 0.0

    def _endpointing(self) -> Endpointing:
        if not self._trigger:
            return Endpointing()
        silence = round(self._trigger * 1000)
        return Endpointing(silence_ms=min(max(silence, _SHORTEST_MS), _LONGEST_MS))

    def _language_pack(self) -> _LanguagePack:
        code = self._language or "auto"
        return _LanguagePack(
            adapted=False,
            itn=False,
            language_description=code,
            word_delimiter=" ",
            writing_direction="left-to-right",
        )

    # --- out ----------------------------------------------------------------------------------

    def _start_speech(self, message: native.SpeechStarted) -> list[msgspec.Struct]:
        is_over = not self._cuts.started(message) and self._is_undecided
        self._is_undecided = False
        return [self._end_of_utterance(message.at)] if is_over else []

    def _final(self, final: native.Final) -> list[msgspec.Struct]:
        was_cut = self._cuts.pop(final.segment)
        self._ended = final.end
        if not final.text:
            return []
        replies: list[msgspec.Struct] = [
            _AddTranscript(*self._transcript(final.text, final.words or [], final.start, final.end))
        ]
        if self._trigger and not was_cut:
            # What the client wants ended may be this, or what it says after this.
            self._is_undecided = bool(self._flushes) and self._cuts.is_newest(final.segment)
            if not self._is_undecided:
                replies.append(self._end_of_utterance(final.end))
        return replies

    def _end_of_utterance(self, position: int) -> _EndOfUtterance:
        at = seconds(self._ended or position)
        return _EndOfUtterance(_UtteranceMetadata(at, at))

    def _transcript(
        self, text: str, words: list[Word], start: int, end: int
    ) -> tuple[_TranscriptMetadata, list[_Result]]:
        metadata = _TranscriptMetadata(f"{text.strip()} ", seconds(start), seconds(end))
        language = self._language or "auto"
        return metadata, [each for word in words for each in _results(word, language)]


def _results(word: Word, language: str) -> list[_Result]:
    """Return a word, and what punctuation follows it."""
    marks = _MARKS.search(word.text)
    text = word.text[: marks.start()] if marks else word.text
    confidence = round(word.confidence, 4)
    start, end = seconds(word.start), seconds(word.end)
    results = []
    if text:
        results.append(_Result("word", start, end, [_Alternative(text, confidence, language)]))
    for mark in marks[0] if marks else "":
        alternatives = [_Alternative(mark, confidence, language)]
        results.append(
            _Result("punctuation", end, end, alternatives, "previous", is_eos=mark in _ENDS)
        )
    return results


def _announced(audio: _AudioFormat) -> Announced:
    if audio.type == "file":
        return Announced(None)
    if audio.type != "raw" or audio.encoding not in _RAW:
        raise InvalidField(
            f"type {audio.type[:20]!r} with encoding {audio.encoding[:20]!r}; allowed are 'file', "
            f"and 'raw' with {', '.join(_RAW)}",
            field="audio_format",
        )
    rates = get_args(SampleRate)
    if audio.sample_rate not in rates:
        raise InvalidField(
            f"{audio.sample_rate} is not one of {', '.join(map(str, rates))}",
            field="audio_format.sample_rate",
        )
    return Announced(AudioFormat(_RAW[audio.encoding], audio.sample_rate))


def _language_code(tag: str | None) -> str | None:
    code = (tag or "auto").replace("_", "-").partition("-")[0].lower()
    return None if code in ("auto", "multi") else code


def _merged(old: _Config, new: _Config) -> _Config:
    given = {
        name: value for name in new.__struct_fields__ if (value := getattr(new, name)) is not None
    }
    return msgspec.structs.replace(old, **given)


class SpeechmaticsApi(Api):
    """``/v2``."""

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client."""
        return SpeechmaticsDialect(call, info)

    def refuse(self, error: Exception, call: Call) -> Response:
        """Return the answer to a client that is not let in."""
        wire, message = wire_error(error), error_message(error)
        kind = _TYPES.get(wire.code, _UNKNOWN)[0]
        return json_response(_Error(kind, message.message), wire.http_status)


def routes(door: Door) -> list[BaseRoute]:
    """Return the routes of the API."""
    return [WebSocketRoute(PATH, DialectEndpoint(SpeechmaticsApi(), door).__call__)]


__all__ = ["PATH", "SpeechmaticsApi", "SpeechmaticsDialect", "routes"]

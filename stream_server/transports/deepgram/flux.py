"""Deepgram's turns, ``/v2/listen``: a conversation reported turn by turn.

A turn ends at a pause; confidences of its end stand for lengths of silence (``query.Thresholds``).
With an eager threshold the session's segments end at the shorter pause: their final is the
``EagerEndOfTurn``, and whether the turn was over is told by what follows on the media clock,
speech or silence.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from stream_protocol import messages as native
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo
from stream_server.transports.deepgram.messages import Reply
from stream_server.transports.deepgram.query import Thresholds, check_thresholds, first_language
from stream_server.transports.dialect import NOTHING, Call, Heard, read_control
from stream_server.transports.opening import Announced, AudioFormat, Inlet
from stream_server.transports.turns import Cuts, Turn
from stream_server.transports.words import seconds

_MILLISECOND = SAMPLE_RATE // 1000
_MARGIN = SAMPLE_RATE // 4
"""Samples that audio handed on may take to be heard, where the session keeps up."""
_KEEPS_UP = 5 * SAMPLE_RATE // 4
"""Samples between what was handed on and what is acknowledged (once a second) of a session that
keeps up with its client."""
_CLOSINGS = {
    "done": (1000, ""),
    "bad_audio": (1008, "DATA-0000: the audio cannot be decoded"),
    "timeout": (1011, "NET-0001: no audio came in time"),
}

_Event = Literal["StartOfTurn", "Update", "EagerEndOfTurn", "TurnResumed", "EndOfTurn"]


class _Word(Reply, frozen=True):
    word: str
    confidence: float
    start: float
    end: float


class _Numbered(Reply, frozen=True):
    sequence_id: int


class _Connected(_Numbered, frozen=True, tag="Connected", tag_field="type"):
    request_id: str


class _TurnInfo(_Numbered, frozen=True, tag="TurnInfo", tag_field="type"):
    request_id: str
    event: _Event
    turn_index: int
    audio_window_start: float
    audio_window_end: float
    transcript: str
    words: list[_Word]
    end_of_turn_confidence: float
    trigger: str | None = None
    languages: list[str] = []


class _ConfigureSuccess(_Numbered, frozen=True, tag="ConfigureSuccess", tag_field="type"):
    request_id: str
    thresholds: dict[str, float]
    keyterms: list[str]
    language_hints: list[str]


class _ConfigureFailure(_Numbered, frozen=True, tag="ConfigureFailure", tag_field="type"):
    request_id: str
    code: str
    description: str


class _Error(_Numbered, frozen=True, tag="Error", tag_field="type"):
    code: str
    description: str


class _NewThresholds(msgspec.Struct, frozen=True):
    eot_threshold: float | None = None
    eot_timeout_ms: int | None = None
    eager_eot_threshold: float | None = None


class _Control(msgspec.Struct, frozen=True):
    type: str
    thresholds: _NewThresholds | None = None
    keyterms: list[str] | None = None
    language_hints: list[str] | None = None


@dataclass(frozen=True, slots=True)
class FluxQuery:
    """``/v2/listen``."""

    audio: Announced
    thresholds: Thresholds
    hints: tuple[str, ...]
    keyterms: tuple[str, ...]


class FluxDialect:
    """The translator of one conversation in turns.

    Args:
        query: what the client asked for.
        call: the connection.
        info: the model.

    Raises:
        InvalidField: the model does not know the language hinted at.
    """

    def __init__(self, query: FluxQuery, call: Call, info: RecogniserInfo) -> None:
        self._thresholds = query.thresholds
        self._hints, self._keyterms = list(query.hints), list(query.keyterms)
        self._language = first_language(query.hints, info)
        self._call = call
        self._info = info
        self._inlet = Inlet(query.audio, self._make_start)
        self._numbers = itertools.count()
        self._is_stopping = False
        self._flushes = 0
        """Turns that the client wants ended."""
        self._listener = _Listener()
        self._turn = Turn()
        self._is_announced = False
        self._is_eager = False
        """Whether the turn is likely to be over."""
        self._is_undecided = False
        """Whether the turn is over, by a pause or by the client's wish."""

    def open(self) -> Heard:
        """Say that the connection is there."""
        connected = _Connected(next(self._numbers), self._call.request_id)
        return Heard(self._inlet.open(), [connected])

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client.

        Raises:
            BadAudio: it is nothing that can be decoded.
            RemoteProtocolError: it is text, but no message.
        """
        if self._is_stopping:
            return NOTHING
        if isinstance(frame, str):
            return self._obey(read_control(frame, _Control))
        if not frame:
            return self._stop()
        heard = self._inlet.feed(frame)
        self._listener.hand_on(self._inlet.samples)
        return Heard(heard, self._end_in_silence())

    def tell(self, message: native.ServerMessage) -> Sequence[msgspec.Struct]:
        """Return what the client is told of a message of the session."""
        match message:
            case native.Ack():
                self._listener.acknowledge(message.samples)
                return self._end_in_silence()
            case native.SpeechStarted():
                return self._start_speech(message)
            case native.SpeechEnded():
                self._listener.ended(message)
            case native.Partial():
                return self._partial(message)
            case native.Final():
                return self._final(message)
            case native.Flushed():
                self._flushes -= 1
                return self._end("manual") if self._turn.is_open else []
            case native.Error() if message.fatal:
                number = next(self._numbers)
                return [_Error(number, message.code.upper(), message.message)]
            case native.Done():
                return self._end() if self._turn.is_open else []
        return []

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return Deepgram's close code and reason."""
        return _CLOSINGS.get(reason, (code, reason))

    # --- in -----------------------------------------------------------------------------------

    def _make_start(self, audio: AudioFormat) -> native.Start:
        return audio.start(
            endpointing=self._thresholds.endpointing,
            language=self._language,
            partial_interval_ms=native.Start().partial_interval_ms,
        )

    def _obey(self, control: _Control) -> Heard:
        is_started = self._inlet.format is not None
        match control.type:
            case "CloseStream":
                return self._stop()
            case "ForceEndTurn" if is_started:
                self._flushes += 1
                return Heard([native.Flush()])
            case "KeepAlive" if is_started:
                return Heard([native.Configure()])
            case "Configure":
                return self._configure(control)
        return NOTHING

    def _stop(self) -> Heard:
        self._is_stopping = True
        return Heard(self._inlet.stop())

    def _configure(self, control: _Control) -> Heard:
        hints = self._hints if control.language_hints is None else control.language_hints
        try:
            language = first_language(hints, self._info)
            thresholds = self._changed(control.thresholds or _NewThresholds())
        except InvalidField as error:
            failure = _ConfigureFailure(
                next(self._numbers),
                self._call.request_id,
                "INVALID_CONFIGURATION",
                f"{error.field}: {error}",
            )
            return Heard(replies=[failure])
        self._thresholds, self._language, self._hints = thresholds, language, hints
        if control.keyterms is not None:
            self._keyterms = control.keyterms
        success = _ConfigureSuccess(
            next(self._numbers),
            self._call.request_id,
            {
                name: value
                for name, value in (
                    ("eot_threshold", thresholds.eot_threshold),
                    ("eot_timeout_ms", thresholds.eot_timeout_ms),
                    ("eager_eot_threshold", thresholds.eager_eot_threshold),
                )
                if value is not None
            },
            self._keyterms,
            hints,
        )
        change = native.Configure(endpointing=thresholds.endpointing, language=language)
        return Heard([change] if self._inlet.format is not None else [], [success])

    def _changed(self, new: _NewThresholds) -> Thresholds:
        given = {
            name: value
            for name in new.__struct_fields__
            if (value := getattr(new, name)) is not None
        }
        return check_thresholds(replace(self._thresholds, **given))

    # --- out ----------------------------------------------------------------------------------

    @property
    def _pause(self) -> int:
        return self._thresholds.silence_ms * _MILLISECOND

    def _start_speech(self, message: native.SpeechStarted) -> list[msgspec.Struct]:
        is_over = self._listener.started(message, self._pause)
        if is_over and (self._is_eager or self._is_undecided):
            return self._end()
        return [self._report("TurnResumed")] if self._is_eager else []

    def _partial(self, partial: native.Partial) -> list[msgspec.Struct]:
        is_oldest = self._listener.is_oldest(partial.segment)
        if not is_oldest or not self._turn.take_partial(partial):
            return []
        if self._is_announced:
            return [self._report("Update")]
        return [self._report("StartOfTurn")]

    def _final(self, final: native.Final) -> list[msgspec.Struct]:
        following = self._listener.finish(final.segment)
        self._turn.take_final(final)
        if not self._turn.is_open:
            return []  # it was noise
        replies: list[msgspec.Struct] = []
        if not self._is_announced:
            replies.append(self._report("StartOfTurn"))
        # What the client wants ended may be this, or what it says after this.
        self._is_undecided = bool(self._flushes) and following == "unknown"
        if following == "same speech" or self._is_undecided:
            return [*replies, self._report("Update")]
        if self._thresholds.eager_ms is None or following == "next turn":
            return [*replies, *self._end()]
        if following == "same turn":
            return [*replies, self._report("Update")]
        if self._is_stopping:
            self._is_undecided = True
            return replies  # what was said after it ends the turn, or `done`
        replies.append(self._report("EagerEndOfTurn"))
        return [*replies, *self._end_in_silence()]

    def _end_in_silence(self) -> list[msgspec.Struct]:
        """End a turn that was likely to be over, once the pause is long enough."""
        if self._is_eager and self._listener.has_been_silent(self._pause):
            return self._end()
        return []

    def _end(self, trigger: str = "") -> list[msgspec.Struct]:
        info = self._report("EndOfTurn", trigger or self._trigger)
        self._turn = self._turn.next()
        self._is_announced = self._is_eager = self._is_undecided = False
        return [info]

    @property
    def _trigger(self) -> str:
        return "timeout" if self._thresholds.is_timeout else "model"

    def _report(self, event: _Event, trigger: str | None = None) -> _TurnInfo:
        turn, thresholds = self._turn, self._thresholds
        self._is_announced = True
        self._is_eager = event == "EagerEndOfTurn"
        confidence = 0.0
        if event == "EndOfTurn":
            confidence = 1.0 if trigger == "manual" else thresholds.eot_threshold
        elif event == "EagerEndOfTurn":
            confidence = thresholds.eager_eot_threshold or 0.0
        return _TurnInfo(
            sequence_id=next(self._numbers),
            request_id=self._call.request_id,
            event=event,
            turn_index=turn.index,
            audio_window_start=seconds(turn.start or 0),
            audio_window_end=seconds(turn.end),
            transcript=turn.text,
            words=[
                _Word(word.text, round(word.confidence, 4), seconds(word.start), seconds(word.end))
                for word in turn.words
            ],
            end_of_turn_confidence=confidence,
            trigger=trigger,
            languages=[turn.language] if turn.language else [],
        )


_Following = Literal["unknown", "same speech", "same turn", "next turn"]
"""What came after a segment."""


class _Listener:
    """Where speech is and was, on the media clock."""

    def __init__(self) -> None:
        self._cuts = Cuts()
        self._running: deque[int] = deque()
        """Segments without a final, oldest first."""
        self._following: dict[int, _Following] = {}
        """Of segments whose final comes after the next began."""
        self._speech_end = 0
        self._handed: int | None = None
        self._acknowledged = 0

    def hand_on(self, samples: int | None) -> None:
        """Take note of how much audio the session has got."""
        self._handed = samples

    def acknowledge(self, samples: int) -> None:
        """Take note of how far the session has heard."""
        self._acknowledged = samples

    def started(self, message: native.SpeechStarted, pause: int) -> bool:
        """Take note of speech; return whether the silence before it was a pause or longer."""
        self._cuts.started(message)
        is_over = message.at - self._speech_end >= pause
        if self._running:
            self._following[self._running[-1]] = "next turn" if is_over else "same turn"
        self._running.append(message.segment)
        return is_over

    def ended(self, message: native.SpeechEnded) -> None:
        """Take note of the end of speech."""
        self._cuts.ended(message)
        self._speech_end = message.at

    def is_oldest(self, segment: int) -> bool:
        """Whether no segment before this one waits for its final."""
        return bool(self._running) and self._running[0] == segment

    def finish(self, segment: int) -> _Following:
        """Take note of a final; return what came after its speech."""
        if segment in self._running:
            self._running.remove(segment)
        following = self._following.pop(segment, "unknown")
        return "same speech" if self._cuts.pop(segment) else following

    def has_been_silent(self, pause: int) -> bool:
        """Whether nothing was said for a pause."""
        clock = self._acknowledged
        if self._handed is not None and self._handed - clock <= _KEEPS_UP:
            clock = max(clock, self._handed - _MARGIN)
        return not self._running and clock - self._speech_end >= pause


__all__ = ["FluxDialect", "FluxQuery"]

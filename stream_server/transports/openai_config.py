"""What an OpenAI realtime session is set to, and what that means for a session of ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar, cast, get_args

from msgspec import UNSET, UnsetType

from stream_protocol.messages import Configure, Encoding, Endpointing, SampleRate, Start
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports.file_job import check_language
from stream_server.transports.openai_events import (
    AudioSettings,
    BetaSession,
    ClientSecret,
    GaSession,
    InputSettings,
    PcmFormat,
    SessionFields,
    TranscriptionFields,
    TranscriptionSettings,
    TurnDetection,
)

_BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_ENCODINGS: dict[str, Encoding] = {
    "audio/pcm": "pcm_s16le",
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
}
_PCM_RATE = 24_000
"""Hertz of ``audio/pcm`` where nothing is said."""
_G711_RATE = 8000
_SILENCE_MS = 500
"""Of server VAD where nothing is said."""
_SEMANTIC_MS = {"low": 1500, "medium": 800, "auto": 800, "high": 400}
"""Milliseconds of silence in place of a model that listens to the meaning."""
_SHORTEST_MS, _LONGEST_MS = 100, 5000
"""Bounds of our endpointing."""
_T = TypeVar("_T")
_MAX_MODEL = 200
"""Characters of the name that is given back."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a realtime session is set to."""

    format: str = "audio/pcm"
    """``audio/pcm``, ``audio/pcmu`` or ``audio/pcma``."""
    rate: int = _PCM_RATE
    """Hertz."""
    model: str | None = None
    """What the client calls it; it changes nothing."""
    language: str | None = None
    """ISO 639-1; none lets the model decide."""
    turn: TurnDetection | None = TurnDetection(
        threshold=0.5, prefix_padding_ms=300, silence_duration_ms=_SILENCE_MS
    )
    """None where the client ends turns by committing."""

    @property
    def silence_ms(self) -> int:
        """Milliseconds of silence that end a segment."""
        asked: object = self.turn.silence_duration_ms if self.turn else None
        if self.turn is not None and self.turn.type == "semantic_vad":
            asked = _SEMANTIC_MS[str(self.turn.eagerness or "auto")]
        return min(max(asked, _SHORTEST_MS), _LONGEST_MS) if isinstance(asked, int) else _SILENCE_MS

    def start(self) -> Start:
        """Return how our session begins."""
        return Start(
            encoding=_ENCODINGS[self.format],
            sample_rate=cast(SampleRate, self.rate),
            language=self.language,
            endpointing=Endpointing(silence_ms=self.silence_ms),
        )

    def configure(self) -> Configure:
        """Return how a running session of ours is changed."""
        return Configure(
            endpointing=Endpointing(silence_ms=self.silence_ms), language=self.language
        )

    def samples(self, size: int) -> int:
        """Return how many samples at 16 kHz ``size`` bytes of audio are."""
        width = 2 if self.format == "audio/pcm" else 1
        return size * 16_000 // (self.rate * width)


def update(settings: Settings, fields: SessionFields, info: RecogniserInfo) -> Settings:
    """Return the settings after an update: what is left out stays.

    Args:
        settings: before.
        fields: what the client sets, in either dialect.
        info: what the model knows.

    Raises:
        InvalidField: something cannot be so; nothing has changed.
    """
    if isinstance(fields.type, str) and fields.type != "transcription":
        raise InvalidField(
            f"only sessions of type 'transcription' are served, not {fields.type[:40]!r}",
            field="session.type",
        )
    if isinstance(fields.input_audio_format, str):
        name = fields.input_audio_format
        if name not in _BETA_FORMATS:
            raise _odd("session.input_audio_format", name, _BETA_FORMATS)
        settings = _with_format(settings, PcmFormat(_BETA_FORMATS[name]))
    settings = _with_turn(settings, fields.turn_detection, "session.turn_detection")
    path = "session.input_audio_transcription"
    settings = _with_language(settings, fields.input_audio_transcription, info, path)
    if not fields.audio or not fields.audio.input:
        return settings
    inner = fields.audio.input
    if isinstance(inner.format, PcmFormat):
        settings = _with_format(settings, inner.format)
    settings = _with_turn(settings, inner.turn_detection, "session.audio.input.turn_detection")
    path = "session.audio.input.transcription"
    return _with_language(settings, inner.transcription, info, path)


def _with_format(settings: Settings, asked: PcmFormat) -> Settings:
    if asked.type not in _ENCODINGS:
        raise _odd("session.audio.input.format.type", asked.type, _ENCODINGS)
    if asked.type != "audio/pcm":
        return replace(settings, format=asked.type, rate=_G711_RATE)
    rate = asked.rate if isinstance(asked.rate, int) else _PCM_RATE
    if rate not in get_args(SampleRate):
        raise _odd("session.audio.input.format.rate", str(rate), map(str, get_args(SampleRate)))
    return replace(settings, format=asked.type, rate=rate)


def _with_turn(settings: Settings, asked: object, path: str) -> Settings:
    if asked is None:
        return replace(settings, turn=None)
    if not isinstance(asked, TurnDetection):
        return settings
    if asked.type not in ("server_vad", "semantic_vad"):
        raise _odd(f"{path}.type", asked.type, ("server_vad", "semantic_vad"))
    if asked.type == "semantic_vad":
        eagerness = asked.eagerness if isinstance(asked.eagerness, str) else "auto"
        if eagerness not in _SEMANTIC_MS:
            raise _odd(f"{path}.eagerness", eagerness, _SEMANTIC_MS)
        return replace(settings, turn=TurnDetection(asked.type, eagerness=eagerness))
    turn = TurnDetection(
        threshold=_given(asked.threshold, 0.5),
        prefix_padding_ms=_given(asked.prefix_padding_ms, 300),
        silence_duration_ms=_given(asked.silence_duration_ms, _SILENCE_MS),
    )
    return replace(settings, turn=turn)


def _given(value: _T | None | UnsetType, default: _T) -> _T:
    return default if value is None or isinstance(value, UnsetType) else value


def _with_language(settings: Settings, asked: object, info: RecogniserInfo, path: str) -> Settings:
    if not isinstance(asked, TranscriptionFields):
        return settings
    if isinstance(asked.model, str):
        settings = replace(settings, model=asked.model[:_MAX_MODEL])
    language, several = asked.language, asked.languages
    if isinstance(language, UnsetType) and isinstance(several, list):
        # Of several the model finds the right one.
        language = several[0] if len(several) == 1 else None
    if isinstance(language, UnsetType):
        return settings
    if not language:
        return replace(settings, language=None)
    code = re.split("[-_]", language, maxsplit=1)[0].lower()
    if not re.fullmatch("[a-z]{2,3}", code):
        raise InvalidField(
            f"{language[:20]!r} is not an ISO 639-1 code such as 'en'", field=f"{path}.language"
        )
    try:
        check_language(code, info)
    except InvalidField as error:
        raise InvalidField(str(error), field=f"{path}.language") from None
    return replace(settings, language=code)


def _odd(field: str, value: str, allowed: Iterable[str]) -> InvalidField:
    names = ", ".join(allowed)
    return InvalidField(f"{value[:40]!r} is not one of {names}", field=field)


def ga_session(settings: Settings, session_id: str, model: str) -> GaSession:
    """Return the session as GA shows it.

    Args:
        settings: what it is set to.
        session_id: its name.
        model: the loaded one, named where the client named none.
    """
    is_pcm = settings.format == "audio/pcm"
    return GaSession(
        session_id,
        AudioSettings(
            InputSettings(
                PcmFormat(settings.format, settings.rate if is_pcm else UNSET),
                TranscriptionSettings(settings.model or model, settings.language),
                settings.turn,
            )
        ),
    )


def beta_session(
    settings: Settings, session_id: str, model: str, secret: ClientSecret | UnsetType = UNSET
) -> BetaSession:
    """Return the session as the beta shows it; as :func:`ga_session`."""
    names = {ga: beta for beta, ga in _BETA_FORMATS.items()}
    return BetaSession(
        session_id,
        names[settings.format],
        TranscriptionSettings(settings.model or model, settings.language),
        settings.turn,
        client_secret=secret,
    )


__all__ = ["Settings", "beta_session", "ga_session", "update"]

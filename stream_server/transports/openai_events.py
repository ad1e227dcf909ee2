"""The events of OpenAI's realtime API, version GA and beta, as they are on the wire.

Only those of a transcription session. What clients send is read leniently, as they send fields
that mean nothing here; types are checked all the same. This file knows no order and no audio.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from stream_server.errors import InvalidField

Dialect = Literal["ga", "beta"]

_T = TypeVar("_T")

# --- what a session is set to ---------------------------------------------------------------------


class PcmFormat(msgspec.Struct, frozen=True):
    """``audio.input.format`` of GA."""

    type: str
    """``audio/pcm``, ``audio/pcmu`` or ``audio/pcma``."""
    rate: int | None | UnsetType = UNSET
    """Hertz, of ``audio/pcm``."""


class TranscriptionFields(msgspec.Struct, frozen=True):
    """``transcription``."""

    model: str | None | UnsetType = UNSET
    language: str | None | UnsetType = UNSET
    """ISO 639-1; empty or null lets the model decide."""
    languages: list[str] | None | UnsetType = UNSET


class TurnDetection(msgspec.Struct, frozen=True):
    """``turn_detection``: when the server ends a turn by itself."""

    type: str = "server_vad"
    threshold: float | None | UnsetType = UNSET
    prefix_padding_ms: int | None | UnsetType = UNSET
    silence_duration_ms: int | None | UnsetType = UNSET
    """Milliseconds of silence that end a turn."""
    eagerness: str | None | UnsetType = UNSET
    """Of ``semantic_vad``: low, medium, high or auto."""


class InputFields(msgspec.Struct, frozen=True):
    """``audio.input`` of GA."""

    format: PcmFormat | None | UnsetType = UNSET
    transcription: TranscriptionFields | None | UnsetType = UNSET
    turn_detection: TurnDetection | None | UnsetType = UNSET


class AudioFields(msgspec.Struct, frozen=True):
    """``audio`` of GA."""

    input: InputFields | None | UnsetType = UNSET


class SessionFields(msgspec.Struct, frozen=True):
    """What a client sets a session to, in either dialect; what is left out stays as it is."""

    type: str | UnsetType = UNSET
    audio: AudioFields | None | UnsetType = UNSET
    input_audio_format: str | None | UnsetType = UNSET
    """Beta: ``pcm16``, ``g711_ulaw`` or ``g711_alaw``."""
    input_audio_transcription: TranscriptionFields | None | UnsetType = UNSET
    """Beta."""
    turn_detection: TurnDetection | None | UnsetType = UNSET
    """Beta."""


class TranscriptionSettings(msgspec.Struct, frozen=True):
    """``transcription`` as the server answers it."""

    model: str
    language: str | None = None
    prompt: str = ""


class InputSettings(msgspec.Struct, frozen=True):
    """``audio.input`` as the server answers it."""

    format: PcmFormat
    transcription: TranscriptionSettings
    turn_detection: TurnDetection | None
    noise_reduction: None = None


class AudioSettings(msgspec.Struct, frozen=True):
    """``audio`` as the server answers it."""

    input: InputSettings


class GaSession(msgspec.Struct, frozen=True):
    """A session as GA shows it."""

    id: str
    audio: AudioSettings
    type: str = "transcription"
    object: str = "realtime.transcription_session"
    include: tuple[str, ...] = ()


class ClientSecret(msgspec.Struct, frozen=True):
    """A key for a browser."""

    value: str
    expires_at: int
    """Unix seconds."""


class BetaSession(msgspec.Struct, frozen=True):
    """A session as the beta shows it."""

    id: str
    input_audio_format: str
    input_audio_transcription: TranscriptionSettings
    turn_detection: TurnDetection | None
    object: str = "realtime.transcription_session"
    modalities: tuple[str, ...] = ("audio", "text")
    client_secret: ClientSecret | UnsetType = UNSET
    """Only in the answer that makes one."""


# --- client to server ---------------------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True):
    """What every event of a client has."""

    type: str
    event_id: str | None = None


class SessionUpdate(msgspec.Struct, frozen=True):
    """``session.update`` and ``transcription_session.update``."""

    session: SessionFields


class AudioAppend(msgspec.Struct, frozen=True):
    """``input_audio_buffer.append``."""

    audio: bytes
    """Base64 on the wire."""


# --- server to client ---------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of the server's events."""

    event_id: str
    """Unique in the session."""


class SessionCreated(Event, frozen=True, tag="session.created"):
    """The first event of GA."""

    session: GaSession


class SessionUpdated(Event, frozen=True, tag="session.updated"):
    """Answer to ``session.update``."""

    session: GaSession


class BetaSessionCreated(Event, frozen=True, tag="transcription_session.created"):
    """The first event of the beta."""

    session: BetaSession


class BetaSessionUpdated(Event, frozen=True, tag="transcription_session.updated"):
    """Answer to ``transcription_session.update``."""

    session: BetaSession


class SpeechStarted(Event, frozen=True, tag="input_audio_buffer.speech_started"):
    """Speech began."""

    item_id: str
    audio_start_ms: int
    """Milliseconds from the start of all audio."""


class SpeechStopped(Event, frozen=True, tag="input_audio_buffer.speech_stopped"):
    """Speech ended."""

    item_id: str
    audio_end_ms: int
    """Milliseconds from the start of all audio."""


class Committed(Event, frozen=True, tag="input_audio_buffer.committed"):
    """The audio of an item is complete."""

    item_id: str
    previous_item_id: str | None


class Cleared(Event, frozen=True, tag="input_audio_buffer.cleared"):
    """The audio that was not committed is forgotten."""


class Content(msgspec.Struct, frozen=True):
    """The content of an item."""

    type: str = "input_audio"
    transcript: None = None


class Item(msgspec.Struct, frozen=True):
    """An item of the conversation: one turn of speech."""

    id: str
    content: tuple[Content, ...] = (Content(),)
    object: str = "realtime.item"
    type: str = "message"
    status: str = "completed"
    role: str = "user"


class ItemAdded(Event, frozen=True, tag="conversation.item.added"):
    """GA: an item is there."""

    item: Item
    previous_item_id: str | None


class ItemDone(Event, frozen=True, tag="conversation.item.done"):
    """GA: an item is complete."""

    item: Item
    previous_item_id: str | None


class ItemCreated(Event, frozen=True, tag="conversation.item.created"):
    """Beta: an item is there."""

    item: Item
    previous_item_id: str | None


class Delta(Event, frozen=True, tag="conversation.item.input_audio_transcription.delta"):
    """Text to be appended; never taken back."""

    item_id: str
    delta: str
    content_index: int = 0


class Usage(msgspec.Struct, frozen=True):
    """What a transcription cost."""

    seconds: float
    type: str = "duration"


class LanguageCode(msgspec.Struct, frozen=True):
    """A language that was heard."""

    code: str


class Completed(Event, frozen=True, tag="conversation.item.input_audio_transcription.completed"):
    """The whole text of an item."""

    item_id: str
    transcript: str
    usage: Usage
    languages: tuple[LanguageCode, ...]
    content_index: int = 0
    logprobs: None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong."""

    type: str
    """``invalid_request_error`` or ``server_error``."""
    code: str
    message: str
    param: str | None = None
    """Path of the field that is wrong."""
    event_id: str | None = None
    """Of the client's event."""


class Failed(Event, frozen=True, tag="conversation.item.input_audio_transcription.failed"):
    """An item has no text; the session goes on."""

    item_id: str
    error: ErrorDetail
    content_index: int = 0


class ErrorEvent(Event, frozen=True, tag="error"):
    """A client's event was not carried out, or the session ends."""

    error: ErrorDetail


def decode(text: str | bytes, kind: type[_T]) -> _T:
    """Return a client's JSON as ``kind``.

    Raises:
        InvalidField: it is not JSON, or a field has the wrong type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise InvalidField(problem[:200], field=path.rstrip("`")[:100] or None) from None
    # UnicodeError and "too many digits" are ValueErrors, as is msgspec's own DecodeError.
    except (ValueError, RecursionError):
        raise InvalidField("the event is not JSON in UTF-8") from None


__all__ = [
    "AudioAppend",
    "AudioFields",
    "AudioSettings",
    "BetaSession",
    "BetaSessionCreated",
    "BetaSessionUpdated",
    "Cleared",
    "ClientSecret",
    "Committed",
    "Completed",
    "Content",
    "Delta",
    "Dialect",
    "Envelope",
    "ErrorDetail",
    "ErrorEvent",
    "Event",
    "Failed",
    "GaSession",
    "InputFields",
    "InputSettings",
    "Item",
    "ItemAdded",
    "ItemCreated",
    "ItemDone",
    "LanguageCode",
    "PcmFormat",
    "SessionCreated",
    "SessionFields",
    "SessionUpdate",
    "SessionUpdated",
    "SpeechStarted",
    "SpeechStopped",
    "TranscriptionFields",
    "TranscriptionSettings",
    "TurnDetection",
    "Usage",
    "decode",
]

"""The events of the Wyoming protocol that a recogniser takes part in, and their bytes.

An event is a line of JSON, then as many bytes of JSON as the line says, then as many of audio.
The lengths are a stranger's word: each is bounded before a byte of it is read.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec

from stream_protocol.errors import RemoteProtocolError

MAX_HEADER = 65_536
"""Bytes of the line."""
MAX_DATA = 1_048_576
"""Bytes of the JSON after it."""

_T = TypeVar("_T")


class _Header(msgspec.Struct, frozen=True):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


# --- client to server ---------------------------------------------------------------------------


class Describe(msgspec.Struct, frozen=True):
    """What are you?"""


class Ping(msgspec.Struct, frozen=True):
    """Are you there?"""

    text: str | None = None
    """Given back."""


class Transcribe(msgspec.Struct, frozen=True):
    """How the audio that follows is to be transcribed."""

    language: str | None = None


class AudioStart(msgspec.Struct, frozen=True):
    """Audio follows."""

    rate: int
    """Hertz."""
    width: int
    """Bytes of a sample."""
    channels: int


class AudioChunk(msgspec.Struct, frozen=True):
    """Audio; its bytes come as the payload."""

    rate: int
    """Hertz."""
    width: int
    """Bytes of a sample."""
    channels: int
    audio: bytes = b""


class AudioStop(msgspec.Struct, frozen=True):
    """No more audio follows."""


class Unknown(msgspec.Struct, frozen=True):
    """Something for others; to be passed over."""


ClientEvent = Describe | Ping | Transcribe | AudioStart | AudioChunk | AudioStop | Unknown

_KINDS: dict[str, type[ClientEvent]] = {
    "describe": Describe,
    "ping": Ping,
    "transcribe": Transcribe,
    "audio-start": AudioStart,
    "audio-chunk": AudioChunk,
    "audio-stop": AudioStop,
}


# --- server to client ---------------------------------------------------------------------------


class ServerEvent(msgspec.Struct, frozen=True):
    """Base of what we send; the tag is the event's type."""


class Attribution(msgspec.Struct, frozen=True):
    """Who made something."""

    name: str
    url: str


class AsrModel(msgspec.Struct, frozen=True):
    """A model."""

    name: str
    languages: tuple[str, ...]
    attribution: Attribution
    description: str
    version: str
    installed: bool = True


class AsrProgram(msgspec.Struct, frozen=True):
    """A recogniser."""

    name: str
    models: tuple[AsrModel, ...]
    attribution: Attribution
    description: str
    version: str
    installed: bool = True
    supports_transcript_streaming: bool = True
    requires_external_vad: bool = True
    """Whether the client says when the utterance is over."""
    prefers_auto_gain_enabled: bool = False
    prefers_noise_reduction_enabled: bool = False


class Info(ServerEvent, frozen=True, tag="info"):
    """Answer to ``describe``."""

    asr: tuple[AsrProgram, ...]


class Pong(ServerEvent, frozen=True, tag="pong"):
    """Answer to ``ping``."""

    text: str | None


class TranscriptStart(ServerEvent, frozen=True, tag="transcript-start"):
    """A transcript begins."""


class TranscriptChunk(ServerEvent, frozen=True, tag="transcript-chunk"):
    """More of it; never taken back."""

    text: str


class Transcript(ServerEvent, frozen=True, tag="transcript"):
    """The whole of it."""

    text: str
    language: str | None


class TranscriptStop(ServerEvent, frozen=True, tag="transcript-stop"):
    """A transcript ended."""


class Failure(ServerEvent, frozen=True, tag="error"):
    """Something went wrong."""

    text: str
    code: str


# --- bytes --------------------------------------------------------------------------------------


async def read_event(reader: asyncio.StreamReader, max_payload: int) -> ClientEvent | None:
    """Return the next event; none at the end of the stream, also in the middle of an event.

    Args:
        reader: with ``MAX_HEADER`` as its limit.
        max_payload: bytes of audio in one event.

    Raises:
        RemoteProtocolError: it is not an event, or larger than allowed.
    """
    try:
        line = await reader.readuntil(b"\n")
        header = _decode(line, _Header)
        data = header.data or {}
        if length := _length(header.data_length, MAX_DATA, "data_length"):
            block = await reader.readexactly(length)
            data = data | _decode(block, dict[str, Any])
        payload = b""
        if length := _length(header.payload_length, max_payload, "payload_length"):
            payload = await reader.readexactly(length)
    except asyncio.LimitOverrunError:
        raise _too_large("the line", MAX_HEADER) from None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _event(header.type, data, payload)


def _event(kind: str, data: dict[str, Any], payload: bytes) -> ClientEvent:
    event_type = _KINDS.get(kind, Unknown)
    if event_type is AudioChunk:
        data = data | {"audio": payload}
    try:
        return msgspec.convert(data, event_type)
    except msgspec.ValidationError as error:
        raise _bad(f"{kind[:40]}: {error}") from None


def _decode(text: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not an event: {error}") from None


def _length(announced: int | None, allowed: int, name: str) -> int:
    if announced is None:
        return 0
    if announced < 0:
        raise _bad(f"{name} is negative")
    if announced > allowed:
        raise _too_large(name, allowed)
    return announced


def _bad(text: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad_message", text[:200], close_code=1007)


def _too_large(what: str, allowed: int) -> RemoteProtocolError:
    return RemoteProtocolError(
        "too_large", f"{what} is over {allowed} bytes; send less at a time", close_code=1009
    )


def encode(event: ServerEvent) -> bytes:
    """Return the bytes of an event, with its data in a block of its own, as clients write it."""
    data = msgspec.to_builtins(event)
    kind = data.pop("type")
    block = msgspec.json.encode(data) if data else b""
    header = {"type": kind} | ({"data_length": len(block)} if block else {})
    return msgspec.json.encode(header) + b"\n" + block


__all__ = [
    "MAX_DATA",
    "MAX_HEADER",
    "AsrModel",
    "AsrProgram",
    "Attribution",
    "AudioChunk",
    "AudioStart",
    "AudioStop",
    "ClientEvent",
    "Describe",
    "Failure",
    "Info",
    "Ping",
    "Pong",
    "ServerEvent",
    "Transcribe",
    "Transcript",
    "TranscriptChunk",
    "TranscriptStart",
    "TranscriptStop",
    "Unknown",
    "encode",
    "read_event",
]

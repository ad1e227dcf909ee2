"""Deepgram's messages as types: what its SDKs read, each with its own field names.

Times are seconds from the start of the audio.
"""

from __future__ import annotations

import uuid
from typing import Any, TypeVar

import msgspec

from stream_protocol.messages import Word
from stream_server.transports.dialect import Call
from stream_server.transports.words import bare, seconds
from stream_server.version import version


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of what the server says."""


class SpokenWord(Reply, frozen=True):
    """A word."""

    word: str
    start: float
    end: float
    confidence: float
    punctuated_word: str | None = None


class ModelInfo(Reply, frozen=True):
    """What decoded the audio."""

    name: str
    version: str
    arch: str


class ResultMetadata(Reply, frozen=True):
    """Of a live result."""

    request_id: str
    model_info: ModelInfo
    model_uuid: str


class Alternative(Reply, frozen=True):
    """What was said; there is always one."""

    transcript: str
    confidence: float
    words: list[SpokenWord]
    languages: list[str] = []
    paragraphs: Any = None


class Channel(Reply, frozen=True):
    """Of one channel."""

    alternatives: list[Alternative]
    detected_language: str | None = None


class Results(Reply, frozen=True, tag="Results", tag_field="type"):
    """What was heard in a window of a channel."""

    channel_index: list[int]
    """The channel, and how many there are."""
    start: float
    duration: float
    is_final: bool
    speech_final: bool
    from_finalize: bool
    channel: Channel
    metadata: ResultMetadata


class SpeechStarted(Reply, frozen=True, tag="SpeechStarted", tag_field="type"):
    """Speech began."""

    channel: list[int]
    timestamp: float


class UtteranceEnd(Reply, frozen=True, tag="UtteranceEnd", tag_field="type"):
    """Nothing was said for a while."""

    channel: list[int]
    last_word_end: float


class FileMetadata(Reply, frozen=True):
    """Of a whole file."""

    request_id: str
    sha256: str
    created: str
    duration: float
    channels: int
    models: list[str]
    model_info: dict[str, ModelInfo]
    transaction_key: str = msgspec.field(default_factory=lambda: "deprecated")
    """A factory, so that it is sent: clients want it."""


class Metadata(FileMetadata, frozen=True, tag="Metadata", tag_field="type"):
    """Of a live connection: everything has been said."""


class ErrorReply(Reply, frozen=True, tag="Error", tag_field="type"):
    """The connection ends for a fault."""

    variant: str
    description: str
    message: str


class ConfigureSuccess(Reply, frozen=True, tag="ConfigureSuccess", tag_field="type"):
    """Settings were taken."""

    request_id: str
    keyterms: list[str]


def model_id(name: str) -> str:
    """Return an identifier for a model: always the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"diffscribe:{name}"))


def model_info(name: str) -> ModelInfo:
    """Return what clients are told of the model."""
    return ModelInfo(name, version(), "diffusion")


_M = TypeVar("_M", FileMetadata, Metadata)


def metadata(
    kind: type[_M], call: Call, model: str, *, sha256: str, duration: float, channels: int
) -> _M:
    """Return what clients are told of a whole connection or file."""
    identity = model_id(model)
    return kind(
        request_id=call.request_id,
        sha256=sha256,
        created=call.began.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        duration=duration,
        channels=channels,
        models=[identity],
        model_info={identity: model_info(model)},
    )


def spoken_words(words: list[Word], *, is_punctuated: bool) -> list[SpokenWord]:
    """Return words in Deepgram's form."""
    return [
        SpokenWord(
            bare(word.text) or word.text,
            seconds(word.start),
            seconds(word.end),
            round(word.confidence, 4),
            word.text if is_punctuated else None,
        )
        for word in words
    ]


__all__ = [
    "Alternative",
    "Channel",
    "ConfigureSuccess",
    "ErrorReply",
    "FileMetadata",
    "Metadata",
    "ModelInfo",
    "Reply",
    "ResultMetadata",
    "Results",
    "SpeechStarted",
    "SpokenWord",
    "UtteranceEnd",
    "metadata",
    "model_id",
    "model_info",
    "spoken_words",
]

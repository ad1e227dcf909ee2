"""Deepgram's ``POST /v1/listen``: a whole file in the body, its transcript in the answer.

The file takes the same way as an upload. Raw samples, which Deepgram takes with ``encoding`` and
``sample_rate``, get the WAV header that says the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import uuid
from collections.abc import Sequence
from typing import BinaryIO, Final

import structlog
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import Word
from stream_server.errors import DiffscribeError, InvalidField, error_message
from stream_server.recogniser.interface import HypothesisWord, RecogniserInfo
from stream_server.session.allowance import Meter
from stream_server.session.driver import Services
from stream_server.session.reports import spread
from stream_server.transports.answers import json_response
from stream_server.transports.deepgram.answers import call_headers, refuse
from stream_server.transports.deepgram.messages import (
    Alternative,
    Channel,
    FileMetadata,
    Reply,
    SpokenWord,
    metadata,
    spoken_words,
)
from stream_server.transports.deepgram.query import (
    RAW,
    flag,
    is_punctuated,
    read_channels,
    read_language,
    read_rate,
)
from stream_server.transports.dialect import Call
from stream_server.transports.door import Door
from stream_server.transports.event_stream import run_unless_gone
from stream_server.transports.file_job import FileJob, FileSegment, FileTranscriber
from stream_server.transports.transcription import Transcription
from stream_server.transports.upload import spool_body, transcribe
from stream_server.transports.words import bare, mean_confidence, seconds

_log = structlog.stdlib.get_logger(__name__)

_GONE: Final = 499
_BLOCK: Final = 1 << 18
"""Bytes hashed at once."""
_PARAGRAPH: Final = 2 * 16_000
"""Samples of silence that begin a new paragraph."""
_UNENDING: Final = 0xFFFF_FFFF
"""Size in a WAV header whose writer does not know it."""
_TAGS: Final = {"pcm_s16le": (1, 16), "pcm_f32le": (3, 32), "mulaw": (7, 8), "alaw": (6, 8)}
"""Format tag of WAV and bits of a sample."""


class _Sentence(Reply, frozen=True):
    text: str
    start: float
    end: float


class _Paragraph(Reply, frozen=True):
    sentences: list[_Sentence]
    start: float
    end: float
    num_words: int


class _Paragraphs(Reply, frozen=True):
    transcript: str
    paragraphs: list[_Paragraph]


class _Utterance(Reply, frozen=True):
    start: float
    end: float
    confidence: float
    channel: int
    transcript: str
    words: list[SpokenWord]
    id: str


class _Results(Reply, frozen=True):
    channels: list[Channel]
    utterances: list[_Utterance] | None = None


class _Answer(Reply, frozen=True):
    metadata: FileMetadata
    results: _Results


class FileEndpoint:
    """Transcribes one file for each request.

    Args:
        door: who is let in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        door, call = self._door, Call()
        with structlog.contextvars.bound_contextvars(session=call.request_id):
            try:
                key = door.keys.check(request, "file").key
                with door.admission.admit(key=key) as services:
                    return await _answer(request, call, services, door.admission.meter(key))
            except ClientDisconnect:
                return Response(status_code=_GONE)
            except (DiffscribeError, RemoteProtocolError) as error:
                door.metrics.record_error(error_message(error).code)
                return refuse(error, call)
            except Exception as error:
                door.metrics.record_error(error_message(error).code)
                _log.exception("a file failed")
                return refuse(error, call)


async def _answer(request: Request, call: Call, services: Services, meter: Meter) -> Response:
    query = request.query_params
    language = read_language(query.get("language"), services.info)
    head = _raw_header(query)
    for name in ("punctuate", "smart_format", "utterances", "paragraphs", "detect_language"):
        flag(query, name)
    if flag(query, "multichannel"):
        raise InvalidField("the channels of a file are mixed here", field="multichannel")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        raise InvalidField(
            "this server fetches nothing: send the audio itself as the body", field="url"
        )
    async with spool_body(request, services, head) as file:
        loop = asyncio.get_running_loop()
        digest = await loop.run_in_executor(services.executor, _digest, file, len(head))
        transcriber = FileTranscriber(FileJob(call.request_id, file, language), services, meter)
        work = transcribe(transcriber, language)
        transcription = await run_unless_gone(request.receive, work)
    answer = render(transcription, query, call, services.info, digest)
    return json_response(answer, headers=call_headers(call))


def _raw_header(query: QueryParams) -> bytes:
    """Return what makes raw samples a WAV file; nothing where the body is a file already."""
    name = query.get("encoding", "").lower()
    if name not in RAW:
        return b""  # a container's own header says it better
    tag, bits = _TAGS[RAW[name]]
    rate, channels = read_rate(query), read_channels(query)
    block = channels * bits // 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", _UNENDING, b"WAVE", b"fmt ", 16),
        *(tag, channels, rate, rate * block, block, bits),
        *(b"data", _UNENDING),
    )


def _digest(file: BinaryIO, head: int) -> str:
    file.seek(head)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def render(
    transcription: Transcription, query: QueryParams, call: Call, info: RecogniserInfo, sha256: str
) -> _Answer:
    """Return the answer for a transcribed file."""
    punctuated = is_punctuated(query)
    words = [_timed(segment) for segment in transcription.segments]
    flat = [word for each in words for word in each]
    found = (segment.language for segment in transcription.segments if segment.language)
    text = transcription.text
    alternative = Alternative(
        transcript=text if punctuated else bare(text),
        confidence=round(mean_confidence(flat), 4),
        words=spoken_words(flat, is_punctuated=punctuated),
        paragraphs=_paragraphs(transcription.segments)
        if flag(query, "paragraphs") or flag(query, "smart_format")
        else None,
    )
    detected = transcription.language or next(found, None)
    utterances = [
        _Utterance(
            start=seconds(segment.start),
            end=seconds(segment.end),
            confidence=round(segment.confidence, 4),
            channel=0,
            transcript=segment.text if punctuated else bare(segment.text),
            words=spoken_words(own, is_punctuated=punctuated),
            id=str(uuid.uuid5(uuid.UUID(call.request_id), str(segment.number))),
        )
        for segment, own in zip(transcription.segments, words, strict=True)
    ]
    duration = seconds(transcription.length)
    return _Answer(
        metadata(FileMetadata, call, info.name, sha256=sha256, duration=duration, channels=1),
        _Results(
            [Channel([alternative], detected)],
            utterances if flag(query, "utterances") else None,
        ),
    )


def _timed(segment: FileSegment) -> list[Word]:
    words = [
        HypothesisWord(
            text=word.text,
            confidence=word.confidence,
            start=None if word.start is None else word.start - segment.start,
            end=None if word.end is None else word.end - segment.start,
        )
        for word in segment.words
    ]
    return spread(words, segment.start, segment.end)


def _paragraphs(segments: Sequence[FileSegment]) -> _Paragraphs:
    groups: list[list[FileSegment]] = []
    for segment in segments:
        if not groups or segment.start - groups[-1][-1].end >= _PARAGRAPH:
            groups.append([])
        groups[-1].append(segment)
    return _Paragraphs(
        "\n\n".join(" ".join(each.text for each in group) for group in groups),
        [
            _Paragraph(
                [_Sentence(each.text, seconds(each.start), seconds(each.end)) for each in group],
                seconds(group[0].start),
                seconds(group[-1].end),
                sum(len(each.words) for each in group),
            )
            for group in groups
        ],
    )


__all__ = ["FileEndpoint", "render"]

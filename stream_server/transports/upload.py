"""``POST /v1/audio/transcriptions``: a file in, its text out, as OpenAI's endpoint does it.

Multipart with a ``file`` part and OpenAI's field names, or the file itself as the body with the
fields in the query. Fields that mean nothing here (``model``, ``prompt``, ``temperature``, ...) are
accepted and ignored, since clients always send some. With ``stream`` the text comes as events. A
client that leaves takes its work with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast, get_args

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive

from stream_protocol.errors import RemoteProtocolError
from stream_server.config import LimitsConfig
from stream_server.errors import (
    DeadlineExceeded,
    DiffscribeError,
    InvalidField,
    LimitReached,
    TooLarge,
    error_message,
    wire_error,
)
from stream_server.metrics import Metrics
from stream_server.session.driver import Services
from stream_server.transports.admission import Admission
from stream_server.transports.answers import error_response
from stream_server.transports.auth import Keys
from stream_server.transports.event_stream import EventStream, run_unless_gone
from stream_server.transports.file_job import FileJob, FileTranscriber
from stream_server.transports.transcription import ResponseFormat, Transcription, render

_log = structlog.stdlib.get_logger(__name__)

_SPOOLED: Final = 1_048_576
"""Bytes of a file that are kept in memory; more goes to a temporary file."""
_MAX_FIELDS: Final = 64
_MAX_FIELD_BYTES: Final = 65_536
_FORM_ALLOWANCE: Final = _MAX_FIELDS * _MAX_FIELD_BYTES
"""Bytes of a multipart body that are not the file."""
_GONE: Final = 499
"""What web servers log for a client that left; nobody reads it."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """What was asked for."""

    response_format: ResponseFormat
    language: str | None
    steps: int | None
    has_words: bool
    """Of ``verbose_json``."""
    is_streaming: bool


class UploadEndpoint:
    """Transcribes one file for each request.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: where refusals are counted.
    """

    def __init__(self, admission: Admission, keys: Keys, metrics: Metrics) -> None:
        self._admission = admission
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        job_id = uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(session=job_id):
            try:
                async with contextlib.AsyncExitStack() as place:
                    key = self._keys.check(request, "file").key
                    services = place.enter_context(self._admission.admit(key=key))
                    fields, source = await place.enter_async_context(_read(request, services))
                    job = FileJob(job_id, source, fields.language, fields.steps)
                    transcriber = FileTranscriber(job, services, self._admission.meter(key))
                    if fields.is_streaming:
                        return EventStream(transcriber.segments(), place.pop_all(), self._metrics)
                    return await _answer(request, transcriber, fields)
            except ClientDisconnect:
                return Response(status_code=_GONE)
            except (DiffscribeError, RemoteProtocolError) as error:
                code = wire_error(error).code
                self._metrics.record_error(code)
                _log.info("upload refused", code=code)
                return error_response(error)
            except Exception as error:
                self._metrics.record_error(error_message(error).code)
                _log.exception("an upload failed")
                return error_response(error)


async def _answer(request: Request, transcriber: FileTranscriber, fields: _Fields) -> Response:
    work = transcribe(transcriber, fields.language)
    transcription = await run_unless_gone(request.receive, work)
    body, media_type = render(transcription, fields.response_format, has_words=fields.has_words)
    return Response(body, media_type=media_type)


async def transcribe(transcriber: FileTranscriber, language: str | None) -> Transcription:
    """Return the whole of a file; ``language`` is what was asked for."""
    async with contextlib.aclosing(transcriber.segments()) as pieces:
        segments = tuple([piece async for piece in pieces])
    return Transcription(segments, transcriber.position, language)


@contextlib.asynccontextmanager
async def _read(request: Request, services: Services) -> AsyncIterator[tuple[_Fields, BinaryIO]]:
    """Give the fields and the file, which is closed when the block is left."""
    max_bytes = services.limits.max_upload_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        fields = _read_fields(dict(request.query_params))
        async with spool_body(request, services) as body:
            yield fields, body
        return
    limited = _limited(request, max_bytes + _FORM_ALLOWANCE, services.limits)
    form = await _parse_form(limited)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidField("send the audio in a part named 'file'", field="file")
        if not file.size:
            raise InvalidField("the file is empty", field="file")
        if file.size > max_bytes:
            raise _too_large(max_bytes)
        yield _read_fields(_texts(form)), file.file
    finally:
        await form.close()


@contextlib.asynccontextmanager
async def spool_body(
    request: Request, services: Services, head: bytes = b""
) -> AsyncIterator[BinaryIO]:
    """Give the body as a file, which is closed when the block is left.

    Args:
        request: its body has not been read.
        services: for its limits.
        head: bytes that go before the body in the file.

    Raises:
        TooLarge: it is over the limit.
        InvalidField: it is empty.
        DeadlineExceeded: it does not come.
    """
    limited = _limited(request, services.limits.max_upload_bytes, services.limits)
    with tempfile.SpooledTemporaryFile(_SPOOLED) as spool:
        spool.write(head)
        await _spool(limited, cast(BinaryIO, spool), services)
        if spool.tell() == len(head):
            raise InvalidField("the body is empty: send the audio file", field="file")
        spool.seek(0)
        yield cast(BinaryIO, spool)


async def _parse_form(request: Request) -> FormData:
    try:
        return await request.form(
            max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        )
    except (HTTPException, MultiPartException) as error:
        detail = error.detail if isinstance(error, HTTPException) else error.message
        raise RemoteProtocolError("bad_message", f"the form cannot be read: {detail}") from error


async def _spool(request: Request, spool: BinaryIO, services: Services) -> None:
    loop = asyncio.get_running_loop()
    async for chunk in request.stream():
        # Off the loop: beyond a megabyte this writes to a disk.
        await loop.run_in_executor(services.executor, spool.write, chunk)


def _limited(request: Request, allowed: int, limits: LimitsConfig) -> Request:
    """Return the request with at most ``allowed`` bytes of body."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > allowed:
        raise _too_large(limits.max_upload_bytes)
    return Request(request.scope, _limit(request.receive, allowed, limits))


def _limit(receive: Receive, allowed: int, limits: LimitsConfig) -> Receive:
    """Return ``receive`` that gives up after ``allowed`` bytes of body, or where none come."""
    received = 0
    idle_ms, open_ms = limits.idle_timeout_ms, limits.max_open_ms
    loop = asyncio.get_running_loop()
    end = loop.time() + open_ms / 1000

    async def receive_some() -> Message:
        nonlocal received
        if open_ms and loop.time() > end:
            raise LimitReached(f"a file may take {open_ms} ms to come; send a shorter one")
        try:
            async with asyncio.timeout(idle_ms / 1000 if idle_ms else None):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(f"nothing of the file came for {idle_ms} ms") from None
        received += len(message.get("body", b""))
        if received > allowed:
            raise _too_large(limits.max_upload_bytes)
        return message

    return receive_some


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"a file may have {max_bytes} bytes; send a shorter one", field="file")


def _texts(form: FormData) -> dict[str, str]:
    texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    kinds = form.getlist("timestamp_granularities[]") + form.getlist("timestamp_granularities")
    texts["timestamp_granularities"] = ",".join(str(kind) for kind in kinds)
    languages = form.getlist("languages[]") + form.getlist("languages")
    if len(languages) == 1 and "language" not in texts:
        texts["language"] = str(languages[0])
    return texts


def _read_fields(values: Mapping[str, str]) -> _Fields:
    """Check the fields that mean something here.

    Raises:
        InvalidField: one has a value that is not allowed.
    """
    formats = get_args(ResponseFormat)
    chosen = values.get("response_format") or "json"
    if chosen not in formats:
        raise InvalidField(
            f"{chosen[:40]!r} is not one of {', '.join(formats)}", field="response_format"
        )
    steps = values.get("steps") or None
    if steps is not None and not (re.fullmatch("[0-9]{1,2}", steps) and 1 <= int(steps) <= 64):
        raise InvalidField(f"{steps[:20]!r} is not a number from 1 to 64", field="steps")
    kinds = set(filter(None, values.get("timestamp_granularities", "").split(",")))
    if odd := kinds - {"word", "segment"}:
        raise InvalidField(
            f"{min(odd)[:40]!r} is not one of word, segment", field="timestamp_granularities"
        )
    return _Fields(
        cast("Literal['json', 'text', 'srt', 'vtt', 'verbose_json']", chosen),
        values.get("language") or None,
        int(steps) if steps else None,
        has_words="word" in kinds,
        is_streaming=values.get("stream", "").lower() in ("true", "1"),
    )


__all__ = ["UploadEndpoint", "spool_body", "transcribe"]

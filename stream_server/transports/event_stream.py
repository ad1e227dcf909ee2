"""The text of a file as server-sent events while it is being worked through, as OpenAI sends it.

``data: {"type": "transcript.text.delta", ...}`` for each stretch of speech, then one
``transcript.text.done`` with the whole. What a delta said is never taken back: only the final text
of a segment is sent. An error after the first event comes as ``event: error``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stream_server.errors import DiffscribeError, error_message
from stream_server.metrics import Metrics
from stream_server.transports.answers import error_response
from stream_server.transports.file_job import FileSegment

_log = structlog.stdlib.get_logger(__name__)
_T = TypeVar("_T")


class _Delta(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    delta: str


class _Done(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.done"):
    text: str


async def run_unless_gone(receive: Receive, work: Coroutine[object, object, _T]) -> _T:
    """Return what ``work`` does; a client that leaves first ends it.

    Args:
        receive: of a request whose body has been read.
        work: run as a task.

    Raises:
        ClientDisconnect: the client left.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An answer that grows.

    Args:
        segments: of the file, in order.
        place: what is held while it is being answered: the place inside, the file.
        metrics: where errors are counted.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        segments: AsyncGenerator[FileSegment, None],
        place: contextlib.AsyncExitStack,
        metrics: Metrics,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._segments = segments
        self._place = place
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client stays for."""
        async with self._place, contextlib.aclosing(self._segments):
            with contextlib.suppress(ClientDisconnect):
                await run_unless_gone(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async for event in _events(self._segments):
                if not has_begun:
                    # Not before something is known to be audio: a bad file gets its own status.
                    start = {"status": self.status_code, "headers": self.raw_headers}
                    await send({"type": "http.response.start", **start})
                    has_begun = True
                body = b"data: " + msgspec.json.encode(event) + b"\n\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except Exception as error:
            self._record(error)
            refusal = error_response(error)
            if not has_begun:
                await refusal(scope, receive, send)
                return
            body = b"event: error\ndata: " + bytes(refusal.body) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _record(self, error: Exception) -> None:
        self._metrics.record_error(error_message(error).code)
        if not isinstance(error, DiffscribeError):
            _log.error("an upload failed", exc_info=error)


async def _events(segments: AsyncIterator[FileSegment]) -> AsyncIterator[_Delta | _Done]:
    texts: list[str] = []
    async for segment in segments:
        yield _Delta(f" {segment.text}" if texts else segment.text)
        texts.append(segment.text)
    yield _Done(" ".join(texts))


__all__ = ["EventStream", "run_unless_gone"]

"""Watching a session: events over SSE, over a WebSocket, and its captions as a file.

Any number of viewers may join any session, whatever its own transport, before its end or for a
while after it. Each gets what is in the log and then what comes. A viewer whose connection takes
nothing for a while, or who falls behind the log, is let go; the session never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Message, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream_protocol.messages import SUBPROTOCOL
from stream_protocol.subtitles import Cue, SubtitleFormat, make_cues, render
from stream_server.errors import LimitReached, Unauthorized, wire_error
from stream_server.transports.answers import error_response, refuse_http
from stream_server.transports.auth import Keys
from stream_server.transports.hub import KEPT_SECONDS, Hub, SessionLog

EVENTS_PATH = "/v1/sessions/{session}/events"
WATCH_PATH = "/v1/sessions/{session}/watch"
CAPTIONS_PATH = "/v1/sessions/{session}/captions"

_SEND_SECONDS = 10.0
"""After which a viewer that takes nothing is gone."""
_KEEP_ALIVE_SECONDS = 15.0
"""Between comments in a quiet event stream, so that proxies keep it open (HTML, 9.2.7)."""
_GONE = (WebSocketDisconnect, RuntimeError, OSError, TimeoutError)
_MEDIA_TYPES: dict[SubtitleFormat, str] = {"vtt": "text/vtt", "srt": "application/x-subrip"}


def _not_found() -> HTTPException:
    return HTTPException(
        404,
        f"there is no such session, or it ended more than {KEPT_SECONDS / 60:g} minutes ago; "
        "a session is named in its `ready`",
    )


class _EventStream(StreamingResponse):
    """A stream of which each piece must be taken in time."""

    async def stream_response(self, send: Send) -> None:
        """Send the pieces until the last, or until one is not taken."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        with contextlib.suppress(TimeoutError):
            await super().stream_response(send_in_time)


async def _server_sent(log: SessionLog, after: int) -> AsyncIterator[str]:
    """Yield the events of a log as blocks of text (HTML, 9.2), a comment where it is quiet."""
    yield "retry: 1000\n\n"
    with contextlib.suppress(LimitReached):  # too slow: it comes back with Last-Event-ID
        async for events in log.follow(after, _KEEP_ALIVE_SECONDS):
            blocks = [f"id: {log.session}:{each.number}\ndata: {each.text}\n\n" for each in events]
            yield "".join(blocks) or ": still here\n\n"


def _seen(log: SessionLog, last_event_id: str) -> int:
    """Return how far a viewer was: 0 where it watched another session of the same name."""
    found = re.fullmatch(rf"{re.escape(log.session)}:([0-9]{{1,15}})", last_event_id.strip())
    return int(found[1]) if found else 0


class ViewerEndpoints:
    """Lets viewers in.

    Args:
        hub: the logs.
        keys: who may watch.
    """

    def __init__(self, hub: Hub, keys: Keys) -> None:
        self._hub = hub
        self._keys = keys

    async def events(self, request: Request) -> Response:
        """Follow a session by server-sent events."""
        try:
            log = self._find(request)
        except Unauthorized as error:
            return error_response(error)
        last = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        after = _seen(log, last)
        if log.is_over and after >= log.last:
            return Response(status_code=204)  # tells EventSource not to come again
        # "no": nginx would hold events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return _EventStream(
            _server_sent(log, after), media_type="text/event-stream", headers=headers
        )

    async def captions(self, request: Request) -> Response:
        """Give the captions of a session as far as it has come."""
        try:
            log = self._find(request)
        except Unauthorized as error:
            return error_response(error)
        kind: SubtitleFormat = "srt" if request.url.path.endswith(".srt") else "vtt"
        headers = {"Cache-Control": "no-store"}
        body = render(_cues(log), kind)
        return Response(body, media_type=_MEDIA_TYPES[kind], headers=headers)

    async def watch(self, websocket: WebSocket) -> None:
        """Follow a session over a WebSocket: the native protocol's server messages."""
        try:
            log = self._find(websocket)
        except (Unauthorized, HTTPException) as error:
            request = Request({**websocket.scope, "type": "http", "method": "GET"})
            await websocket.send_denial_response(refuse_http(request, error))
            return
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        following = asyncio.create_task(_follow(websocket, log))
        leaving = asyncio.create_task(_wait_until_left(websocket))
        try:
            await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (following, leaving):
                task.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)

    def _find(self, connection: HTTPConnection) -> SessionLog:
        caller, name = self._keys.check(connection, "watch"), connection.path_params["session"]
        if caller.grant is not None and caller.grant.watched not in (None, name):
            raise Unauthorized("the token is for another session")
        log = self._hub.find(name, caller.key.owner)
        if log is None:
            raise _not_found()
        return log


async def _follow(websocket: WebSocket, log: SessionLog) -> None:
    code, reason = 1000, "done"
    with contextlib.suppress(*_GONE):
        try:
            async for events in log.follow():
                for event in events:
                    async with asyncio.timeout(_SEND_SECONDS):
                        await websocket.send_text(event.text)
        except LimitReached as error:
            code, reason = wire_error(error).close_code, wire_error(error).code
        except TimeoutError:
            code, reason = 1013, "timeout"
        async with asyncio.timeout(_SEND_SECONDS):
            await websocket.close(code, reason)


async def _wait_until_left(websocket: WebSocket) -> None:
    """Read until the viewer goes; what it says is of no interest."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _cues(log: SessionLog) -> list[Cue]:
    finals = sorted(log.finals(), key=lambda final: final.start)
    return [
        cue
        for final in finals
        for cue in make_cues(final.text, final.start, final.end, final.words or ())
    ]


def routes(hub: Hub, keys: Keys) -> list[BaseRoute]:
    """Return the routes for viewers.

    Args:
        hub: the logs.
        keys: who may watch.
    """
    viewers = ViewerEndpoints(hub, keys)
    return [
        Route(EVENTS_PATH, viewers.events),
        Route(f"{CAPTIONS_PATH}.vtt", viewers.captions),
        Route(f"{CAPTIONS_PATH}.srt", viewers.captions),
        WebSocketRoute(WATCH_PATH, viewers.watch),
    ]


__all__ = ["CAPTIONS_PATH", "EVENTS_PATH", "WATCH_PATH", "ViewerEndpoints", "routes"]

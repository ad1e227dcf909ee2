"""WHIP (RFC 9725): OBS, GStreamer and browsers publish by one HTTP request.

``POST /whip`` takes an offer; ``POST /whip/NAME`` gives the session a name of the publisher's
choice, under which viewers find it whenever it comes again. ICE restarts are refused with 422, as
the RFC allows; the session then stays as it is.
"""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_protocol.messages import Start
from stream_server.errors import DiffscribeError, InvalidField, wire_error
from stream_server.metrics import Metrics
from stream_server.transports.answers import error_response, refusal
from stream_server.transports.auth import Keys
from stream_server.transports.body import read_body
from stream_server.transports.calls import Call, Calls
from stream_server.transports.ice import link_header
from stream_server.transports.sdp import MAX_SDP_BYTES, find_ufrag, read_fragment
from stream_server.transports.viewers import EVENTS_PATH, WATCH_PATH

WHIP_PATH = "/whip"
_RESOURCE_PATH = "/whip/sessions/{session}"
_SDP = "application/sdp"
_FRAGMENT = "application/trickle-ice-sdpfrag"
_EVENTS_RELATION = "urn:x-diffscribe:events"
_WATCH_RELATION = "urn:x-diffscribe:watch"


class _Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be set in the URL; as in ``start``."""

    language: str | None = None
    partial_interval_ms: int = Start().partial_interval_ms
    steps: int | None = None
    words: bool = True
    api_key: str | None = None
    token: str | None = None
    jwt: str | None = None


class WhipEndpoints:
    """WHIP.

    Args:
        calls: where sessions begin.
        keys: who may publish.
        metrics: where refusals are counted.
    """

    def __init__(self, calls: Calls, keys: Keys, metrics: Metrics) -> None:
        self._calls = calls
        self._keys = keys
        self._metrics = metrics

    async def publish(self, request: Request) -> Response:
        """Answer an offer, or say how to make one (``OPTIONS``)."""
        if request.method == "OPTIONS":
            links = self._links() if self._is_let_in(request) else []
            return _answer(200, [("Accept-Post", _SDP), *links])
        try:
            key = self._keys.check(request, "session").key
            offer = await _read(request, _SDP)
            name = request.path_params.get("name")
            call = await self._calls.answer(offer, find_ufrag(offer), _start(request), name, key)
        except DiffscribeError as error:
            self._metrics.record_session_refused()
            self._metrics.record_error(wire_error(error).code)
            return error_response(error)
        events = EVENTS_PATH.format(session=call.session)
        watch = WATCH_PATH.format(session=call.session)
        headers = [
            ("Location", _RESOURCE_PATH.format(session=call.session)),
            ("ETag", _etag(call)),
            ("Accept-Patch", _FRAGMENT),
            *self._links(),
            ("Link", f'<{events}>; rel="{_EVENTS_RELATION}"'),
            ("Link", f'<{watch}>; rel="{_WATCH_RELATION}"'),
        ]
        return _answer(201, headers, call.answer, _SDP)

    async def change(self, request: Request) -> Response:
        """Take further candidates (``PATCH``), end the session (``DELETE``)."""
        if request.method == "OPTIONS":
            return _answer(200, [("Accept-Patch", _FRAGMENT)])
        try:
            self._keys.check(request, "session")
            call = self._calls.find(request.path_params["session"])
            if call is None:
                raise HTTPException(404, "there is no such session, or it is over")
            if request.method == "DELETE":
                self._calls.end(call.session)
                return Response(status_code=200)
            return await _trickle(call, request)
        except DiffscribeError as error:
            return error_response(error)

    def _is_let_in(self, request: Request) -> bool:
        try:
            self._keys.check(request, "session")
        except DiffscribeError:
            return False
        return True

    def _links(self) -> list[tuple[str, str]]:
        return [("Link", link_header(server)) for server in self._calls.ice_servers]


async def _trickle(call: Call, request: Request) -> Response:
    fragment = read_fragment(await _read(request, _FRAGMENT))
    if fragment.ufrag is not None and fragment.ufrag != call.ufrag:
        return refusal(422, "invalid_field", "ICE restarts are not served; publish again", "sdp")
    expected = request.headers.get("if-match", "*")
    if expected not in ("*", _etag(call)):
        raise HTTPException(412, "If-Match is not the ETag of this session")
    for candidate in fragment.candidates:
        await call.peer.add_candidate(candidate)
    if fragment.is_end:
        await call.peer.end_candidates()
    return Response(status_code=204)


def _etag(call: Call) -> str:
    # Of the ICE session (RFC 9725, 4.3.1), of which each call has one and no more.
    return f'"{call.session[:16]}"'


def _start(request: Request) -> Start:
    """Return what the URL says the session begins with.

    Raises:
        InvalidField: a parameter is unknown or cannot be what it is.
    """
    try:
        query = msgspec.convert(dict(request.query_params), _Query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidField(f"in the URL: {error}", field="query") from None
    return Start(
        language=query.language,
        partial_interval_ms=query.partial_interval_ms,
        steps=query.steps,
        words=query.words,
    )


async def _read(request: Request, kind: str) -> str:
    return (await read_body(request, MAX_SDP_BYTES, kind)).decode("utf-8", "replace")


def _answer(
    status: int, headers: list[tuple[str, str]], body: str = "", media_type: str | None = None
) -> Response:
    response = Response(body, status, media_type=media_type)
    for name, value in headers:
        response.headers.append(name, value)
    return response


def routes(calls: Calls, keys: Keys, metrics: Metrics) -> list[BaseRoute]:
    """Return the routes of WHIP.

    Args:
        calls: where sessions begin.
        keys: who may publish.
        metrics: where refusals are counted.
    """
    whip = WhipEndpoints(calls, keys, metrics)
    return [
        Route(WHIP_PATH, whip.publish, methods=["POST", "OPTIONS"]),
        Route(WHIP_PATH + "/{name}", whip.publish, methods=["POST", "OPTIONS"]),
        Route(_RESOURCE_PATH, whip.change, methods=["PATCH", "DELETE", "OPTIONS"]),
    ]


__all__ = ["WHIP_PATH", "WhipEndpoints", "routes"]

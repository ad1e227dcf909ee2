"""Deepgram's API on this server's port: live, in turns, and whole files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports.deepgram import answers
from stream_server.transports.deepgram.file import FileEndpoint
from stream_server.transports.deepgram.flux import FluxDialect, FluxQuery
from stream_server.transports.deepgram.live import LiveDialect
from stream_server.transports.deepgram.query import read_audio, read_live, read_thresholds
from stream_server.transports.dialect import Api, Call, Dialect, DialectEndpoint
from stream_server.transports.door import Door

LIVE_PATH: Final = "/v1/listen"
FLUX_PATH: Final = "/v2/listen"


class _Deepgram(Api):
    """What both WebSocket APIs share."""

    def subprotocol(self, connection: HTTPConnection) -> str | None:
        return answers.subprotocol(connection)

    def headers(self, call: Call) -> Mapping[str, str]:
        return answers.call_headers(call)

    def refuse(self, error: Exception, call: Call) -> Response:
        return answers.refuse(error, call)


class LiveApi(_Deepgram):
    """``/v1/listen``."""

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client."""
        return LiveDialect(read_live(connection.query_params, info), call, info)


class FluxApi(_Deepgram):
    """``/v2/listen``."""

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client."""
        query = connection.query_params
        flux = FluxQuery(
            audio=read_audio(query),
            thresholds=read_thresholds(query),
            hints=tuple(query.getlist("language_hint")),
            keyterms=tuple(query.getlist("keyterm")),
        )
        return FluxDialect(flux, call, info)


def routes(door: Door) -> list[BaseRoute]:
    """Return the routes of the API."""
    return [
        Route(LIVE_PATH, FileEndpoint(door).__call__, methods=["POST"]),
        WebSocketRoute(LIVE_PATH, DialectEndpoint(LiveApi(), door).__call__),
        WebSocketRoute(FLUX_PATH, DialectEndpoint(FluxApi(), door).__call__),
    ]


__all__ = ["FLUX_PATH", "LIVE_PATH", "FluxApi", "LiveApi", "routes"]

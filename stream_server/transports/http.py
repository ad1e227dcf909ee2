"""Everything on the server's one port: the routes, the probes and the metrics.

``/healthz`` says that the process lives, ``/readyz`` that a session would be taken now: a load
balancer asks the second, and restarts only for the first. Both are open to everyone; all else
wants a key where keys are set.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from stream_protocol.messages import SUBPROTOCOL
from stream_server.config import LimitsConfig
from stream_server.metrics import CONTENT_TYPE, Metrics
from stream_server.transports import (
    assemblyai,
    jigasi,
    offer,
    openai_realtime,
    openai_rest,
    openapi,
    page,
    speechmatics,
    token_routes,
    viewers,
    vosk,
    whip,
)
from stream_server.transports.admission import Admission
from stream_server.transports.answers import (
    json_response,
    refuse_http,
)
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.deepgram import api as deepgram
from stream_server.transports.door import Door
from stream_server.transports.hub import Hub
from stream_server.transports.origin import OriginGuard
from stream_server.transports.upload import UploadEndpoint
from stream_server.transports.websocket import StreamEndpoint

STREAM_PATH = "/v1/stream"
UPLOAD_PATH = "/v1/audio/transcriptions"

_CROSS_ORIGIN_HEADERS = (
    "Authorization", "Content-Type", "If-Match", "Last-Event-ID", "X-API-Key",
)  # fmt: skip
_EXPOSED_HEADERS = ("Location", "Link", "ETag", "Accept-Post", "Accept-Patch", "Retry-After")

PROBES = ("/healthz", "/readyz")
"""What is answered to everyone."""
DRAIN_PATH = "/drain"


class _Health(msgspec.Struct, frozen=True):
    status: str


class _Readiness(msgspec.Struct, frozen=True):
    status: str
    model: str | None
    sessions: int
    max_sessions: int


class _Drain(msgspec.Struct, frozen=True):
    status: str
    sessions: int
    uploads: int


class _Index(msgspec.Struct, frozen=True):
    name: str
    version: str
    model: str | None
    status: str
    languages: tuple[str, ...]
    endpoints: dict[str, str]


class _Pages:
    """The small pages."""

    def __init__(
        self, admission: Admission, metrics: Metrics, max_sessions: int, version: str
    ) -> None:
        self._admission = admission
        self._metrics = metrics
        self._max_sessions = max_sessions
        self._version = version
        self._openapi = openapi.render(
            version, {PROBES[0]: _Health, PROBES[1]: _Readiness}, {DRAIN_PATH: _Drain}
        )

    async def index(self, request: Request) -> Response:
        """Say what is here."""
        endpoints = {
            STREAM_PATH: f"WebSocket, subprotocol {SUBPROTOCOL}: live audio in, transcripts out",
            UPLOAD_PATH: "POST a file: json, text, srt, vtt or verbose_json, or text as it comes",
            whip.WHIP_PATH: "WHIP: POST an SDP offer",
            offer.OFFER_PATH: "WebRTC: POST an offer as JSON",
            viewers.EVENTS_PATH: "a session's transcripts as server-sent events",
            viewers.WATCH_PATH: "the same over a WebSocket",
            f"{viewers.CAPTIONS_PATH}.vtt": "captions so far; also .srt",
            openai_realtime.PATH: "WebSocket: OpenAI's realtime transcription sessions",
            deepgram.LIVE_PATH: "Deepgram: live over WebSocket, or POST a file",
            deepgram.FLUX_PATH: "WebSocket: Deepgram's turns",
            assemblyai.PATH: "WebSocket: AssemblyAI's streaming API",
            speechmatics.PATH: "WebSocket: Speechmatics' realtime API",
            vosk.PATHS[1]: "WebSocket: Vosk's protocol, also at /",
            jigasi.PATH: "WebSocket: a Jitsi meeting, from Jigasi",
            token_routes.PATH: "POST: a short-lived token, for browsers",
            PROBES[0]: "the process lives",
            PROBES[1]: "a session would be taken now",
            DRAIN_PATH: "who is inside, while the server waits for them to finish and before",
            "/metrics": "Prometheus",
            openapi.PATH: "the endpoints over plain HTTP, as OpenAPI 3.1",
        }
        admission = self._admission
        return json_response(
            _Index(
                "diffscribe",
                self._version,
                admission.model,
                admission.status,
                admission.languages,
                endpoints,
            )
        )

    async def health(self, request: Request) -> Response:
        """Say that the process lives."""
        return json_response(_Health("alive"))

    async def ready(self, request: Request) -> Response:
        """Say whether a session would be taken now; being full counts as ready."""
        admission = self._admission
        is_ready = admission.status == "ready"
        return json_response(
            _Readiness(admission.status, admission.model, admission.inside, self._max_sessions),
            200 if is_ready else 503,
        )

    async def openapi(self, request: Request) -> Response:
        """Describe the endpoints over plain HTTP."""
        return Response(self._openapi, media_type="application/json")

    async def drain(self, request: Request) -> Response:
        """Say who is inside; once it is nobody, a server that is about to stop does."""
        admission = self._admission
        sessions = admission.sessions
        return json_response(_Drain(admission.status, sessions, admission.inside - sessions))

    async def metrics(self, request: Request) -> Response:
        """Give every metric."""
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)


async def _upgrade_required(request: Request) -> Response:
    """Answer a plain GET of the stream's path (RFC 9110, 15.5.22)."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return refuse_http(request, HTTPException(426, "connect with a WebSocket client", headers))


class _Application(Starlette):
    """Starlette, but a WebSocket to a path that is not there is told so before the upgrade."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._serves(scope):
            detail = f"no WebSocket is served here; connect to {STREAM_PATH}"
            websocket = WebSocket(scope, receive, send)
            request = Request({**scope, "type": "http", "method": "GET"})
            await websocket.send_denial_response(refuse_http(request, HTTPException(404, detail)))
            return
        await super().__call__(scope, receive, send)

    def _serves(self, scope: Scope) -> bool:
        sockets = (route for route in self.routes if isinstance(route, WebSocketRoute))
        return any(route.matches(scope)[0] is Match.FULL for route in sockets)


@dataclass(frozen=True, slots=True)
class WebParts:
    """What the routes beside the native stream and the upload are made of."""

    hub: Hub
    calls: Calls
    allow_origin: tuple[str, ...] = ()
    """Origins of pages elsewhere that may use the server; ``*`` is any."""
    knows_names: bool = False
    """Whether it answers only to names that nobody else can give to this machine."""


def make_app(
    admission: Admission,
    keys: Keys,
    metrics: Metrics,
    limits: LimitsConfig,
    version: str,
    parts: WebParts | None = None,
) -> Starlette:
    """Return the application: every route of the port.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: what ``/metrics`` shows.
        limits: of messages and files.
        version: what the index says.
        parts: for viewers and WebRTC; none serves neither.
    """
    pages = _Pages(admission, metrics, limits.max_sessions, version)
    upload = UploadEndpoint(admission, keys, metrics)
    door = Door(admission, keys, metrics, limits.max_message_bytes)
    stream = StreamEndpoint(door)
    routes: list[BaseRoute] = [
        *page.routes(keys.guard(pages.index)),
        Route(PROBES[0], pages.health),
        Route(PROBES[1], pages.ready),
        Route(openapi.PATH, keys.guard(pages.openapi)),
        Route(DRAIN_PATH, keys.guard(pages.drain)),
        Route("/metrics", keys.guard(pages.metrics)),
        Route(UPLOAD_PATH, upload.__call__, methods=["POST"]),
        Route(STREAM_PATH, keys.guard(_upgrade_required)),
        WebSocketRoute(STREAM_PATH, stream.__call__),
        *openai_rest.routes(admission, keys),
        *openai_realtime.routes(door),
        *deepgram.routes(door),
        *assemblyai.routes(door),
        *speechmatics.routes(door),
        *vosk.routes(door),
        *token_routes.routes(keys),
        *jigasi.routes(door),
    ]
    if parts is not None:
        routes += [
            *viewers.routes(parts.hub, keys),
            *whip.routes(parts.calls, keys, metrics),
            *offer.routes(parts.calls, keys, metrics),
        ]
    return _Application(
        routes=routes,
        middleware=_cross_origin(parts),
        exception_handlers={HTTPException: refuse_http},
    )


def _cross_origin(parts: WebParts | None) -> list[Middleware]:
    """Return what keeps pages of strangers out, and lets those in that are named (Fetch, 3.2)."""
    origins = parts.allow_origin if parts is not None else ()
    knows_names = parts.knows_names if parts is not None else False
    guard = Middleware(OriginGuard, origins, PROBES, knows_names=knows_names)
    if not origins:
        return [guard]
    return [
        guard,
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE", "OPTIONS"],
            allow_headers=_CROSS_ORIGIN_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        ),
    ]


__all__ = ["DRAIN_PATH", "PROBES", "STREAM_PATH", "UPLOAD_PATH", "WebParts", "make_app"]

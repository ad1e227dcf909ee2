"""The caption page: plain files of the client package, open to everyone.

The page holds nothing secret; what it calls wants a key where keys are set. ``/`` is the page for
browsers and the JSON index for everyone else, by ``Accept``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

WEB_PATH = "/web"
OVERLAY_PATH = "/overlay"

_HEADERS = {
    # Pages come with the server they talk to: an old one must not outlive an update.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # the overlay's address may hold a key
    "X-Content-Type-Options": "nosniff",
}


class _Files(StaticFiles):
    """Files with the headers of the pages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await super().__call__(scope, receive, send_with_headers)


def folder() -> Path:
    """Return where the files are."""
    return Path(str(files("stream_client"))) / "web"


def prefers_html(accept: str) -> bool:
    """Return whether an ``Accept`` header names HTML before JSON, as those of browsers do."""
    kinds = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    html = [kinds.index(kind) for kind in ("text/html", "application/xhtml+xml") if kind in kinds]
    json = [kinds.index(kind) for kind in ("application/json",) if kind in kinds]
    return bool(html) and (not json or min(html) < min(json))


def routes(index: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    """Return the routes of the page.

    Args:
        index: answers those who want JSON from ``/``.
    """

    async def root(request: Request) -> Response:
        if not prefers_html(request.headers.get("accept", "")):
            response = await index(request)
        else:
            response = FileResponse(folder() / "index.html", headers=_HEADERS)
        response.headers.add_vary_header("Accept")
        return response

    async def overlay(request: Request) -> Response:
        return FileResponse(folder() / "overlay.html", headers=_HEADERS)

    return [
        Route("/", root),
        Route(OVERLAY_PATH, overlay),
        Mount(WEB_PATH, _Files(directory=folder())),
    ]


__all__ = ["OVERLAY_PATH", "WEB_PATH", "folder", "prefers_html", "routes"]

"""Which web pages may use the server: its own, and those that ``--allow-origin`` names.

A browser lets any page open a WebSocket to any address, that of a server on the visitor's own
machine among them, and only says in ``Origin`` whose page it is (RFC 6455, 10.2). So whatever comes
with a stranger's ``Origin`` is refused here, before any route sees it. Programs send none.

A page may also come under a name of its own that it has pointed at this machine ("DNS rebinding");
then its origin looks like ours. A server that wants no keys on a machine of its own therefore takes
only names that no stranger can give: addresses, names without a dot, which the public DNS does not
have, and this machine's.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from stream_server.transports.answers import refusal

_log = structlog.stdlib.get_logger(__name__)


class OriginGuard:
    """Middleware that keeps pages of strangers out.

    Args:
        app: what is guarded.
        allowed: origins that are let in beside the server's own; ``*`` is any.
        open_paths: that are answered to everyone.
        knows_names: whether only names are taken that nobody else can give to this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: Iterable[str] = (),
        open_paths: Iterable[str] = (),
        *,
        knows_names: bool = False,
    ) -> None:
        self._app = app
        self._allowed = frozenset(origin.lower() for origin in allowed)
        self._open_paths = frozenset(open_paths)
        self._names = _own_names(self._allowed) if knows_names else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        problem = self.judge(Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, send)
            return
        _log.info("refused a page", reason=problem)
        answer = refusal(403, "foreign_origin", problem)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)

    def judge(self, headers: Headers) -> str | None:
        """Return why a request is refused; none where it is not."""
        if "*" in self._allowed:
            return None
        host = headers.get("host", "").lower()
        if self._names is not None and not self._is_ours(host):
            return (
                f"this server does not go by the name {host[:100]!r}: call it by its address, name "
                "its pages with --allow-origin, or give it keys"
            )
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._allowed:
            return None
        if host and _authority(origin) == host:
            return None
        return (
            f"pages of {origin[:100]!r} may not use this server: name them with --allow-origin; "
            "behind a proxy, pass the Host header on"
        )

    def _is_ours(self, host: str) -> bool:
        name = _name(f"//{host}")
        if not host or name.endswith(".localhost") or (name and "." not in name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (self._names or ())
        return True


def _authority(origin: str) -> str:
    """Return host and port of an origin, as a Host header has them; empty where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(origin: str) -> str:
    """Return the host of an origin alone, without the brackets of IPv6."""
    try:
        return (urlsplit(origin).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _own_names(allowed: Iterable[str]) -> frozenset[str]:
    own = socket.gethostname().lower()
    return frozenset({own, f"{own}.local", *map(_name, allowed)})


__all__ = ["OriginGuard"]

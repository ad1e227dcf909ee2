"""ICE servers as an operator writes them, as aiortc and browsers want them, as WHIP links them.

``stun:host:port`` or ``turn:user:password@host:port?transport=udp``; user and password are
percent-encoded where they hold ``:``, ``@`` or ``%``.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

_PATTERN = re.compile(
    r"(?P<scheme>stuns?|turns?):(?:(?P<user>[^:@\s]+):(?P<password>[^:@\s]+)@)?(?P<rest>[^@\s\"<>]+)"
)


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A STUN or TURN server, as ``RTCIceServer`` of the browsers."""

    urls: str
    username: str | None = None
    credential: str | None = None


def read_ice_server(text: str) -> IceServer:
    """Return what an operator wrote; ``config`` has checked its form.

    Raises:
        ValueError: it has not that form.
    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ValueError("write stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT")
    url = f"{found['scheme']}:{found['rest']}"
    if found["user"] is None:
        return IceServer(url)
    return IceServer(url, unquote(found["user"]), unquote(found["password"]))


def link_header(server: IceServer) -> str:
    """Return the value of the ``Link`` header that names ``server`` (RFC 9725, 4.6)."""
    link = f'<{server.urls}>; rel="ice-server"'
    if server.username is None or server.credential is None:
        return link
    user, password = _quoted(server.username), _quoted(server.credential)
    return f'{link}; username={user}; credential={password}; credential-type="password"'


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


__all__ = ["IceServer", "link_header", "read_ice_server"]

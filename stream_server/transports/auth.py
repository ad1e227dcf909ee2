"""Who may come in: keys, compared in constant time.

A key comes as ``Authorization: Bearer KEY``, as ``X-API-Key: KEY``, or as ``?api_key=KEY``. A
browser's WebSocket cannot set headers and should not have a key in its address: it offers the
subprotocol ``diffscribe.key.`` with the key in unpadded base64url (RFC 4648, 5) after it. Keys are
hashed before they are compared, so that neither their content nor their length shows in the time
it takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from starlette.requests import HTTPConnection

from stream_server.errors import Unauthorized

SUBPROTOCOL_PREFIX = "diffscribe.key."
"""What a subprotocol begins with that is a key."""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _offered(connection: HTTPConnection) -> list[str]:
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    offered = [credentials.strip()] if scheme.lower() == "bearer" else []
    offered += connection.headers.getlist("x-api-key")
    for name in connection.headers.get("sec-websocket-protocol", "").split(","):
        if name.strip().startswith(SUBPROTOCOL_PREFIX):
            offered.append(_unpacked(name.strip().removeprefix(SUBPROTOCOL_PREFIX)))
    return offered + connection.query_params.getlist("api_key")


def _unpacked(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return ""


class Keys:
    """The keys that open a server; with none it is open to everyone."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def derive(self, purpose: bytes) -> bytes:
        """Return 32 bytes that only a server with the same keys knows; by chance without keys.

        Args:
            purpose: different bytes for each.
        """
        if not self._digests:
            return secrets.token_bytes(32)
        return hmac.digest(b"".join(sorted(self._digests)), purpose, "sha256")

    def check(self, connection: HTTPConnection, *more: str) -> None:
        """Let ``connection`` in.

        Args:
            connection: with its keys in the usual places.
            more: keys that came in a way of one API.

        Raises:
            Unauthorized: it brings no key, or no right one.
        """
        if not self._digests:
            return
        offered = [_digest(key) for key in [*more, *_offered(connection)][:8]]
        # Every pair is compared: leaving at the first match would tell which key it was.
        matches = [hmac.compare_digest(a, b) for a in offered for b in self._digests]
        if not any(matches):
            raise Unauthorized(
                ("no API key was sent" if not offered else "the API key is not valid")
                + ": send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY' or '?api_key=KEY'"
            )


__all__ = ["SUBPROTOCOL_PREFIX", "Keys"]

"""Who may come in: keys, compared in constant time.

A key may come in any of the ways that the APIs here have for it, whichever API is asked:

- ``Authorization: Bearer KEY``; of Deepgram ``Token KEY``; of AssemblyAI ``KEY`` alone,
- ``X-API-Key: KEY``,
- ``?api_key=KEY``; of AssemblyAI ``?token=KEY``; of Speechmatics ``?jwt=KEY``; of skynet
  ``?auth_token=KEY``,
- in a subprotocol, since a browser's WebSocket cannot set headers and should not have a key in its
  address: ``diffscribe.key.`` with the key in unpadded base64url (RFC 4648, 5) after it; of OpenAI
  ``openai-insecure-api-key.KEY``; of Deepgram the pair ``token, KEY``.

Keys are hashed before they are compared, so that neither their content nor their length shows in
the time it takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable

from starlette.requests import HTTPConnection

from stream_server.errors import Unauthorized

KEY_SCHEMES = ("bearer", "token")
"""Before a key, in ``Authorization`` and as the first of two subprotocols."""
_PARAMETERS = ("api_key", "token", "jwt", "auth_token")
_MOST = 8
"""Keys of one connection that are looked at."""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def offered_keys(connection: HTTPConnection) -> list[str]:
    """Return the keys that a connection brings, the first few of them."""
    parameters = connection.query_params
    found = [
        *_of_header(connection.headers.get("authorization", "")),
        *connection.headers.getlist("x-api-key"),
        *_of_subprotocols(connection.headers.get("sec-websocket-protocol", "")),
        *(key for name in _PARAMETERS for key in parameters.getlist(name)),
    ]
    return found[:_MOST]


def _of_header(value: str) -> list[str]:
    scheme, space, key = value.strip().partition(" ")
    if scheme.lower() in KEY_SCHEMES:
        return [key.strip()]
    return [] if space or not scheme else [scheme]


def _of_subprotocols(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    found = [names[1]] if len(names) > 1 and names[0].lower() in KEY_SCHEMES else []
    for name in names:
        for prefix, unpack in _PREFIXES.items():
            if name.startswith(prefix):
                found.append(unpack(name.removeprefix(prefix)))
    return found


def _unpacked(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return ""


_PREFIXES: dict[str, Callable[[str], str]] = {
    "diffscribe.key.": _unpacked,
    "openai-insecure-api-key.": str,
}
"""What a subprotocol begins with that is a key, and how the rest is read."""


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

    def check(self, connection: HTTPConnection) -> None:
        """Let ``connection`` in.

        Raises:
            Unauthorized: it brings no key, or no right one.
        """
        if not self._digests:
            return
        offered = [_digest(key) for key in offered_keys(connection)]
        # Every pair is compared: leaving at the first match would tell which key it was.
        matches = [hmac.compare_digest(a, b) for a in offered for b in self._digests]
        if not any(matches):
            raise Unauthorized(
                ("no API key was sent" if not offered else "the API key is not valid")
                + ": send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY' or '?api_key=KEY'"
            )


__all__ = ["KEY_SCHEMES", "Keys", "offered_keys"]

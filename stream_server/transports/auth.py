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
the time it takes. A short-lived token (``tokens``) may come in any of these ways in a key's place.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from stream_server.errors import Unauthorized
from stream_server.keyring import ANYONE, Key, digest, read_keys
from stream_server.transports.answers import error_response
from stream_server.transports.tokens import Grant, Scope, Token, Tokens

Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request."""
KEY_SCHEMES = ("bearer", "token")
"""Before a key, in ``Authorization`` and as the first of two subprotocols."""
_PARAMETERS = ("api_key", "token", "jwt", "auth_token")
_MOST = 8
"""Keys of one connection that are looked at."""


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


@dataclass(frozen=True, slots=True)
class Caller:
    """Who was let in."""

    key: Key
    """Theirs, or the one that their token was made with."""
    grant: Grant | None = None
    """What their token says; none where they brought the key itself, or need none."""


class Keys:
    """The keys that open a server; where none are asked for it is open to everyone.

    Args:
        plain: keys as they are; their holders are called ``api-key:1`` and so on.
        file: with further keys, hashed; where there is a file the server is never open.
        tokens: that stand for a key.

    Raises:
        ConfigError: the file is wrong.
    """

    def __init__(
        self, plain: Iterable[str] = (), file: Path | None = None, tokens: Tokens | None = None
    ) -> None:
        self._plain = tuple(
            Key(f"api-key:{number}", digest(key)) for number, key in enumerate(plain, 1)
        )
        self._file = file
        self._seen = _signature(file)
        self._kept = read_keys(file) if file else ()
        self._tokens = tokens or Tokens()

    @property
    def is_open(self) -> bool:
        """Whether everyone is let in."""
        return not self._plain and self._file is None

    @property
    def has_changed(self) -> bool:
        """Whether the file is another than when it was last read; asks the disk."""
        return self._file is not None and _signature(self._file) != self._seen

    def reload(self) -> frozenset[str]:
        """Read the file again and return the names whose key is gone or another.

        Raises:
            ConfigError: the file is wrong; the keys are what they were.
        """
        if self._file is None:
            return frozenset()
        self._seen = _signature(self._file)
        kept = read_keys(self._file)
        left = {(key.name, key.digest) for key in kept}
        gone = frozenset(key.name for key in self._kept if (key.name, key.digest) not in left)
        self._kept = kept
        return gone

    def check(self, connection: HTTPConnection, scope: Scope | None = None) -> Caller:
        """Let ``connection`` in and return who it is.

        Args:
            connection: brings a key, or a token.
            scope: that a token must have; none takes keys alone.

        Raises:
            Unauthorized: it brings neither, or no right one.
        """
        offered = offered_keys(connection)
        token = self._find_token(offered, scope)
        if token is not None:
            return token
        if self.is_open:
            return Caller(ANYONE)
        key = self._find([digest(each) for each in offered])
        if key is None:
            raise Unauthorized(
                ("no API key was sent" if not offered else "the API key is not valid")
                + ": send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY' or '?api_key=KEY'"
            )
        return Caller(key)

    def guard(self, handler: Handler) -> Handler:
        """Return ``handler`` that answers holders of a key alone."""

        async def handle(request: Request) -> Response:
            try:
                self.check(request)
            except Unauthorized as error:
                return error_response(error)
            return await handler(request)

        return handle

    def make_token(
        self,
        key: Key,
        scopes: tuple[Scope, ...],
        seconds: int,
        watched: str | None = None,
        settings: bytes = b"null",
    ) -> Token:
        """Return a token that stands for ``key``.

        Args:
            key: whose.
            scopes: what it opens.
            seconds: for how long.
            watched: the one session that it lets watch; none lets watch any.
            settings: JSON for the API that it is made by.
        """
        grant = Grant(self._tokens.mark(key.digest), scopes, watched, settings)
        return self._tokens.make(grant, seconds)

    def _all(self) -> tuple[Key, ...]:
        return (ANYONE,) if self.is_open else (*self._plain, *self._kept)

    def _find(self, offered: Sequence[bytes]) -> Key | None:
        # Every pair is compared: leaving at the first match would tell which key it was.
        found = None
        for key in self._all():
            for each in offered:
                if hmac.compare_digest(each, key.digest):
                    found = key
        return found

    def _find_token(self, offered: Iterable[str], scope: Scope | None) -> Caller | None:
        """Return whom a token stands for; none where there is none of ours."""
        for value in offered:
            grant = self._tokens.open(value)
            if grant is None:
                continue
            if scope is None or scope not in grant.scopes:
                opens = " and ".join(grant.scopes)
                raise Unauthorized(f"a token for {opens} does not open this; send the key itself")
            for key in self._all():
                if self._tokens.mark(key.digest) == grant.key:
                    return Caller(key, grant)
            raise Unauthorized("the key that this token was made with has been withdrawn")
        return None


def _signature(file: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file does; none where there is no file."""
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


__all__ = ["KEY_SCHEMES", "Caller", "Handler", "Keys", "offered_keys"]

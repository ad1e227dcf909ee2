"""Short-lived tokens: what a key's holder gives to a browser in the key's place.

Signed, and never stored: every server with the same ``token_secret`` takes them, and one without
only its own. A token says whose it is, what it opens and until when; it opens nothing once that key
is withdrawn. The tokens of every API here are these.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from stream_server.errors import Unauthorized

Scope = Literal["session", "file", "watch"]
"""``session``: begin live sessions, by whatever transport. ``file``: have files transcribed.
``watch``: see what sessions say."""

_PREFIX = "ek_"
"""OpenAI's, which its clients look for."""
_DOMAIN = b"diffscribe token 1\0"
"""So that what is signed here is signed for nothing else."""
_MARK = b"diffscribe key 1\0"
_SIGNATURE = 16
"""Bytes."""
_MAX_TOKEN = 4096
"""Characters."""


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    expires_at: int
    """Unix seconds."""
    key: str
    scopes: tuple[Scope, ...]
    watched: str | None
    settings: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says."""

    key: str
    """Stands for the key that it was made with: :meth:`Tokens.mark` of it."""
    scopes: tuple[Scope, ...]
    watched: str | None = None
    """The one session, by name or id, that it lets watch; none lets watch any."""
    settings: bytes = b"null"
    """JSON of the API that it was made by: what a session begins with."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was made."""

    value: str
    expires_at: int
    """Unix seconds."""


class Tokens:
    """Makes and opens tokens.

    Args:
        secret: signs them; empty takes one by chance.
        clock: Unix seconds.
    """

    def __init__(self, secret: str = "", clock: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode() or secrets.token_bytes(32)
        self._clock = clock

    def mark(self, digest: bytes) -> str:
        """Return what stands for a key in tokens: says nothing of it to whoever has a token."""
        return hmac.digest(self._secret, _MARK + digest, "sha256")[:_SIGNATURE].hex()

    def make(self, grant: Grant, seconds: int) -> Token:
        """Return a token that opens what ``grant`` says for ``seconds``."""
        expires_at = int(self._clock()) + seconds
        payload = msgspec.json.encode(
            _Payload(
                expires_at, grant.key, grant.scopes, grant.watched, msgspec.Raw(grant.settings)
            )
        )
        signed = base64.urlsafe_b64encode(self._sign(payload) + payload)
        return Token(_PREFIX + signed.decode().rstrip("="), expires_at)

    def open(self, value: str) -> Grant | None:
        """Return what a token says; none if it is something else.

        Raises:
            Unauthorized: it was one, and has expired.
        """
        if not value.startswith(_PREFIX) or len(value) > _MAX_TOKEN:
            return None
        text = value.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        signature, payload = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            return None
        try:
            content = msgspec.json.decode(payload, type=_Payload)
        except msgspec.MsgspecError:  # signed by another version of this server
            return None
        if content.expires_at < self._clock():
            raise Unauthorized("the token has expired; make a new one")
        return Grant(content.key, content.scopes, content.watched, bytes(content.settings))

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, _DOMAIN + payload, "sha256")[:_SIGNATURE]


__all__ = ["Grant", "Scope", "Token", "Tokens"]

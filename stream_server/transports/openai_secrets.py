"""Keys for browsers: short-lived, with a session's settings inside, signed and never stored.

Any server with the same API keys takes them; where there are no keys, the server that made them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
import uuid
from collections.abc import Callable

import msgspec
from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_server.errors import DiffscribeError, InvalidField, Unauthorized
from stream_server.transports import openai_config as config
from stream_server.transports import openai_events as wire
from stream_server.transports.admission import Admission
from stream_server.transports.answers import error_response, json_response
from stream_server.transports.auth import Keys
from stream_server.transports.body import read_body

_PREFIX = "ek_"
_SIGNATURE = 16
"""Bytes."""
_SECONDS = 600
"""Life of a key where nothing is said."""
_SHORTEST, _LONGEST = 10, 7200
_MAX_BODY = 65_536
_MAX_TOKEN = 4096


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    expires_at: int
    """Unix seconds."""
    settings: config.Settings


class _ExpiresAfter(msgspec.Struct, frozen=True):
    seconds: int | None = None


class SecretRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/realtime/client_secrets``."""

    session: wire.SessionFields | None = None
    expires_after: _ExpiresAfter | None = None


class SecretAnswer(msgspec.Struct, frozen=True):
    """Its answer."""

    value: str
    expires_at: int
    session: wire.GaSession


class ClientSecrets:
    """Makes and checks the keys.

    Args:
        secret: signs them.
        clock: Unix seconds.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock

    def make(self, settings: config.Settings, seconds: int = _SECONDS) -> wire.ClientSecret:
        """Return a key.

        Args:
            settings: what a session opened with it is set to.
            seconds: how long it opens sessions.
        """
        expires_at = int(self._clock()) + seconds
        payload = msgspec.json.encode(_Payload(expires_at, settings))
        signed = base64.urlsafe_b64encode(self._sign(payload) + payload)
        return wire.ClientSecret(_PREFIX + signed.decode().rstrip("="), expires_at)

    def open(self, value: str) -> config.Settings | None:
        """Return the settings in a key; none if it is something else.

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
            raise Unauthorized("the client secret has expired; make a new one")
        return content.settings

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")[:_SIGNATURE]


class _Endpoint:
    """``/v1/realtime/client_secrets`` and the beta's ``/v1/realtime/transcription_sessions``."""

    def __init__(self, admission: Admission, keys: Keys, secrets: ClientSecrets) -> None:
        self._admission = admission
        self._keys = keys
        self._secrets = secrets

    async def make(self, request: Request) -> Response:
        """Answer as GA does."""
        try:
            wanted = wire.decode(await self._read(request) or b"{}", SecretRequest)
            seconds = wanted.expires_after.seconds if wanted.expires_after else None
            seconds = _SECONDS if seconds is None else seconds
            if not _SHORTEST <= seconds <= _LONGEST:
                raise InvalidField(
                    f"{seconds} is not from {_SHORTEST} to {_LONGEST}",
                    field="expires_after.seconds",
                )
            settings, model = self._settings(wanted.session or wire.SessionFields())
        except DiffscribeError as error:
            return error_response(error)
        secret = self._secrets.make(settings, seconds)
        session = config.ga_session(settings, _session_id(), model)
        return json_response(SecretAnswer(secret.value, secret.expires_at, session))

    async def make_beta(self, request: Request) -> Response:
        """Answer as the beta does."""
        try:
            fields = wire.decode(await self._read(request) or b"{}", wire.SessionFields)
            settings, model = self._settings(fields)
        except DiffscribeError as error:
            return error_response(error)
        secret: wire.ClientSecret | UnsetType = self._secrets.make(settings)
        return json_response(config.beta_session(settings, _session_id(), model, secret))

    async def _read(self, request: Request) -> bytes:
        self._keys.check(request)
        return await read_body(request, _MAX_BODY)

    def _settings(self, fields: wire.SessionFields) -> tuple[config.Settings, str]:
        info = self._admission.check().info
        return config.update(config.Settings(), fields, info), info.name


def _session_id() -> str:
    return f"sess_{uuid.uuid4().hex[:24]}"


def routes(admission: Admission, keys: Keys, secrets: ClientSecrets) -> list[BaseRoute]:
    """Return the routes that make keys.

    Args:
        admission: knows the model.
        keys: who may make some.
        secrets: makes them.
    """
    endpoint = _Endpoint(admission, keys, secrets)
    return [
        Route("/v1/realtime/client_secrets", endpoint.make, methods=["POST"]),
        Route("/v1/realtime/transcription_sessions", endpoint.make_beta, methods=["POST"]),
    ]


__all__ = ["ClientSecrets", "SecretAnswer", "SecretRequest", "routes"]

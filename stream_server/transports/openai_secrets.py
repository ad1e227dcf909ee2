"""OpenAI's keys for browsers: tokens (``tokens``) with a session's settings inside."""

from __future__ import annotations

import uuid

import msgspec
from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_server.errors import DiffscribeError, InvalidField
from stream_server.transports import openai_config as config
from stream_server.transports import openai_events as wire
from stream_server.transports.admission import Admission
from stream_server.transports.answers import error_response, json_response
from stream_server.transports.auth import Caller, Keys
from stream_server.transports.body import read_body

_SECONDS = 600
"""Life of a key where nothing is said."""
_SHORTEST, _LONGEST = 10, 7200
_MAX_BODY = 65_536


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


class _Endpoint:
    """``/v1/realtime/client_secrets`` and the beta's ``/v1/realtime/transcription_sessions``."""

    def __init__(self, admission: Admission, keys: Keys) -> None:
        self._admission = admission
        self._keys = keys

    async def make(self, request: Request) -> Response:
        """Answer as GA does."""
        try:
            caller = self._keys.check(request)
            wanted = wire.decode(await read_body(request, _MAX_BODY) or b"{}", SecretRequest)
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
        secret = self._make(caller, settings, seconds)
        session = config.ga_session(settings, _session_id(), model)
        return json_response(SecretAnswer(secret.value, secret.expires_at, session))

    async def make_beta(self, request: Request) -> Response:
        """Answer as the beta does."""
        try:
            caller = self._keys.check(request)
            body = await read_body(request, _MAX_BODY)
            fields = wire.decode(body or b"{}", wire.SessionFields)
            settings, model = self._settings(fields)
        except DiffscribeError as error:
            return error_response(error)
        secret: wire.ClientSecret | UnsetType = self._make(caller, settings)
        return json_response(config.beta_session(settings, _session_id(), model, secret))

    def _make(
        self, caller: Caller, settings: config.Settings, seconds: int = _SECONDS
    ) -> wire.ClientSecret:
        packed = msgspec.json.encode(settings)
        token = self._keys.make_token(caller.key, ("session",), seconds, settings=packed)
        return wire.ClientSecret(token.value, token.expires_at)

    def _settings(self, fields: wire.SessionFields) -> tuple[config.Settings, str]:
        info = self._admission.check().info
        return config.update(config.Settings(), fields, info), info.name


def _session_id() -> str:
    return f"sess_{uuid.uuid4().hex[:24]}"


def read_settings(caller: Caller) -> config.Settings:
    """Return what a client's token sets its session to; the defaults where it brought none."""
    settings = caller.grant.settings if caller.grant else b"null"
    try:
        found = msgspec.json.decode(settings, type=config.Settings | None)
    except msgspec.MsgspecError:  # of another API
        found = None
    return found or config.Settings()


def routes(admission: Admission, keys: Keys) -> list[BaseRoute]:
    """Return the routes that make keys.

    Args:
        admission: knows the model.
        keys: who may make some.
    """
    endpoint = _Endpoint(admission, keys)
    return [
        Route("/v1/realtime/client_secrets", endpoint.make, methods=["POST"]),
        Route("/v1/realtime/transcription_sessions", endpoint.make_beta, methods=["POST"]),
    ]


__all__ = ["SecretAnswer", "SecretRequest", "read_settings", "routes"]

"""Where tokens are made, as each API's clients ask for them; below all of them is ``tokens``.

``POST /v1/tokens`` is our own. Deepgram's ``POST /v1/auth/grant``, AssemblyAI's ``GET /v3/token``
and Speechmatics' ``POST /v1/api_keys`` give the same tokens in other words; OpenAI's, which bring
settings, are made in ``openai_secrets``. Only a key makes tokens: a token makes no other.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_server.errors import DiffscribeError, InvalidField
from stream_server.transports.answers import error_response, json_response
from stream_server.transports.assemblyai import AssemblyAiApi
from stream_server.transports.auth import Keys
from stream_server.transports.body import read_body
from stream_server.transports.deepgram import answers as deepgram
from stream_server.transports.dialect import Call
from stream_server.transports.tokens import Scope

PATH: Final = "/v1/tokens"
GRANT_PATH: Final = "/v1/auth/grant"
"""Deepgram's."""
ASSEMBLYAI_PATH: Final = "/v3/token"
SPEECHMATICS_PATH: Final = "/v1/api_keys"
_MAX_BODY: Final = 4_096

_Seconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
"""Of a token's life: a day at most, as Speechmatics'."""
_Watched = Annotated[str, msgspec.Meta(pattern=r"^[\w.-]{1,64}$")]


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/tokens``."""

    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)] = ("session",)
    """What it opens."""
    seconds: _Seconds = 60
    """How long."""
    session: _Watched | None = None
    """The only one that may be watched with it; none lets watch any."""


class TokenAnswer(msgspec.Struct, frozen=True):
    """Its answer."""

    token: str
    expires_at: int
    """Unix seconds."""
    scopes: tuple[Scope, ...]


class DeepgramTokenRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/auth/grant``."""

    ttl_seconds: Annotated[int, msgspec.Meta(ge=1, le=3_600)] = 30


class DeepgramToken(msgspec.Struct, frozen=True):
    """Its answer."""

    access_token: str
    expires_in: int
    """Seconds."""


class _AssemblyAiWanted(msgspec.Struct, frozen=True):
    expires_in_seconds: Annotated[int, msgspec.Meta(ge=1, le=600)]


class AssemblyAiToken(msgspec.Struct, frozen=True):
    """Answer of ``GET /v3/token``."""

    token: str
    expires_in_seconds: int


class SpeechmaticsTokenRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/api_keys``."""

    ttl: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 60


class SpeechmaticsToken(msgspec.Struct, frozen=True):
    """Its answer."""

    key_value: str
    apikey_id: str | None = None


_T = TypeVar("_T", bound=msgspec.Struct)


class TokenEndpoints:
    """Makes tokens.

    Args:
        keys: who may have some.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def make(self, request: Request) -> Response:
        """Answer ``POST /v1/tokens``."""
        try:
            key = self._keys.check(request).key
            wanted = await _read(request, TokenRequest)
            if wanted.session is not None and wanted.scopes != ("watch",):
                text = "a session can be named where the only scope is 'watch'"
                raise InvalidField(text, field="session")
        except DiffscribeError as error:
            return error_response(error)
        token = self._keys.make_token(key, wanted.scopes, wanted.seconds, wanted.session)
        return _answer(TokenAnswer(token.value, token.expires_at, wanted.scopes))

    async def make_for_deepgram(self, request: Request) -> Response:
        """Answer as Deepgram does: the token opens what can be transcribed, live or as a file."""
        call = Call()
        try:
            key = self._keys.check(request).key
            wanted = await _read(request, DeepgramTokenRequest)
        except DiffscribeError as error:
            return deepgram.refuse(error, call)
        token = self._keys.make_token(key, ("session", "file"), wanted.ttl_seconds)
        made = DeepgramToken(token.value, wanted.ttl_seconds)
        return _answer(made, headers=deepgram.call_headers(call))

    async def make_for_assemblyai(self, request: Request) -> Response:
        """Answer as AssemblyAI does."""
        try:
            key = self._keys.check(request).key
            wanted = _convert(dict(request.query_params), _AssemblyAiWanted, is_json=False)
        except DiffscribeError as error:
            return AssemblyAiApi().refuse(error, Call())
        token = self._keys.make_token(key, ("session",), wanted.expires_in_seconds)
        return _answer(AssemblyAiToken(token.value, wanted.expires_in_seconds))

    async def make_for_speechmatics(self, request: Request) -> Response:
        """Answer as Speechmatics does."""
        try:
            key = self._keys.check(request).key
            wanted = await _read(request, SpeechmaticsTokenRequest)
        except DiffscribeError as error:
            return error_response(error)
        token = self._keys.make_token(key, ("session",), wanted.ttl)
        return _answer(SpeechmaticsToken(token.value), status=201)


def _answer(
    made: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return json_response(made, status, {"Cache-Control": "no-store", **(headers or {})})


async def _read(request: Request, kind: type[_T]) -> _T:
    body = await read_body(request, _MAX_BODY)
    try:
        values = msgspec.json.decode(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidField("the body is not JSON", field="body") from None
    return _convert(values, kind)


def _convert(values: object, kind: type[_T], *, is_json: bool = True) -> _T:
    try:
        return msgspec.convert(values, kind, strict=is_json)
    except msgspec.ValidationError as error:
        raise InvalidField(f"what is asked for is not as it should be: {error}") from None


def routes(keys: Keys) -> list[BaseRoute]:
    """Return the routes that make tokens."""
    tokens = TokenEndpoints(keys)
    return [
        Route(PATH, tokens.make, methods=["POST"]),
        Route(GRANT_PATH, tokens.make_for_deepgram, methods=["POST"]),
        Route(ASSEMBLYAI_PATH, tokens.make_for_assemblyai, methods=["GET"]),
        Route(SPEECHMATICS_PATH, tokens.make_for_speechmatics, methods=["POST"]),
    ]


__all__ = [
    "ASSEMBLYAI_PATH",
    "GRANT_PATH",
    "PATH",
    "SPEECHMATICS_PATH",
    "AssemblyAiToken",
    "DeepgramToken",
    "DeepgramTokenRequest",
    "SpeechmaticsToken",
    "SpeechmaticsTokenRequest",
    "TokenAnswer",
    "TokenEndpoints",
    "TokenRequest",
    "routes",
]

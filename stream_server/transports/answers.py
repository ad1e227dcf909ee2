"""Errors as HTTP answers, in the shape that OpenAI's clients read.

``{"error": {"message", "type", "code", "param"}}`` with the status of ``errors.wire_error``; also
the refusal of a WebSocket before its upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stream_server.errors import error_message, wire_error

_RETRY_AFTER = "2"
"""Seconds after which a refused client may ask again."""

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    412: "precondition_failed",
    413: "too_large",
    415: "unsupported_media_type",
    426: "upgrade_required",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorDetail


def json_response(
    value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return ``value`` as a JSON answer; one that is only so for now says when to ask again."""
    body = msgspec.json.encode(value)
    retry = {"Retry-After": _RETRY_AFTER} if status in (429, 503) else {}
    return Response(body, status, {**retry, **(headers or {})}, media_type="application/json")


def error_response(error: BaseException) -> Response:
    """Return the answer for ``error``; an unknown one gives no detail away."""
    wire, message = wire_error(error), error_message(error)
    headers = {}
    if wire.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    detail = ErrorDetail(message.message, _type(wire.http_status), wire.code, message.field)
    return json_response(ErrorBody(detail), wire.http_status, headers)


def refusal(status: int, code: str, message: str, param: str | None = None) -> Response:
    """Return the answer to a request that an API knows and this server does not serve."""
    return json_response(ErrorBody(ErrorDetail(message, _type(status), code, param)), status)


def refuse_http(request: Request, error: Exception) -> Response:
    """Answer what the router refuses (no such path, wrong method): an exception handler."""
    if not isinstance(error, HTTPException):
        return error_response(error)
    status = error.status_code
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    detail = ErrorDetail(message, _type(status), _CODES.get(status, "bad_message"), None)
    return json_response(ErrorBody(detail), status, error.headers)


def _type(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


__all__ = [
    "ErrorBody",
    "ErrorDetail",
    "error_response",
    "json_response",
    "refusal",
    "refuse_http",
]

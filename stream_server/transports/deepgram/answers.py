"""What Deepgram's endpoints say before and around a transcript: refusals, headers, subprotocols."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response

from stream_server.errors import error_message, wire_error
from stream_server.transports.answers import json_response
from stream_server.transports.auth import KEY_SCHEMES
from stream_server.transports.dialect import Call

_CODES: Final = {
    401: "INVALID_AUTH",
    408: "SLOW_UPLOAD",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}
_STATUS: Final = {
    # Of codes whose status differs from ours: clients that retry know this one.
    "timeout": 408,
}


class _Refusal(msgspec.Struct, frozen=True):
    err_code: str
    err_msg: str
    request_id: str


def refuse(error: Exception, call: Call) -> Response:
    """Return the HTTP answer for ``error``, over WebSocket before the upgrade."""
    wire, message = wire_error(error), error_message(error)
    status = _STATUS.get(wire.code, wire.http_status)
    text = f"{message.field}: {message.message}" if message.field else message.message
    if status == 401:
        text = f"Invalid credentials. {text}"
    code = _CODES.get(status, "Bad Request" if status < 500 else "INTERNAL_SERVER_ERROR")
    headers = {**call_headers(call), "dg-error": text.encode("ascii", "replace").decode()}
    return json_response(_Refusal(code, text, call.request_id), status, headers)


def call_headers(call: Call) -> dict[str, str]:
    """Return the headers of every answer."""
    return {"dg-request-id": call.request_id}


def subprotocol(connection: HTTPConnection) -> str | None:
    """Return the subprotocol to accept: browsers want one of those they offered."""
    offered: list[str] = connection.scope.get("subprotocols", [])
    return offered[0] if offered and offered[0].lower() in KEY_SCHEMES else None


__all__ = ["call_headers", "refuse", "subprotocol"]

"""Refusals in Deepgram's form, and the places where its clients put their keys."""

from __future__ import annotations

import json

import pytest
from starlette.requests import HTTPConnection

from stream_protocol.errors import RemoteProtocolError
from stream_server.errors import (
    BadAudio,
    Draining,
    InvalidField,
    LimitReached,
    Overloaded,
    Unauthorized,
)
from stream_server.transports.deepgram import answers
from stream_server.transports.dialect import Call


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidField("é is odd", field="encoding"), 400, "Bad Request"),
        (RemoteProtocolError("bad_message", "no"), 400, "Bad Request"),
        (BadAudio("no audio"), 400, "Bad Request"),
        (Unauthorized("no key"), 401, "INVALID_AUTH"),
        (Overloaded("full"), 503, "SERVICE_UNAVAILABLE"),
        (LimitReached("used up"), 429, "TOO_MANY_REQUESTS"),
        (Draining("stops"), 503, "SERVICE_UNAVAILABLE"),
        (RuntimeError("secret"), 500, "INTERNAL_SERVER_ERROR"),
    ],
)
def test_refusals(error: Exception, status: int, code: str) -> None:
    call = Call()
    answer = answers.refuse(error, call)
    body = json.loads(answer.body)
    assert (answer.status_code, body["err_code"]) == (status, code)
    assert body["request_id"] == answer.headers["dg-request-id"] == call.request_id
    assert body["err_msg"].encode("ascii", "replace").decode() == answer.headers["dg-error"]
    assert "secret" not in body["err_msg"]
    assert ("retry-after" in answer.headers) is (status in (429, 503))


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (("token", "abc"), "token"),
        (("bearer", "a.b.c"), "bearer"),
        (("other", "abc"), None),
        ((), None),
    ],
)
def test_of_a_pair_of_subprotocols_the_first_is_accepted(
    offered: tuple[str, ...], accepted: str | None
) -> None:
    scope = {"type": "websocket", "headers": [], "query_string": b"", "subprotocols": offered}
    assert answers.subprotocol(HTTPConnection(scope)) == accepted

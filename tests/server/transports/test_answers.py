"""Errors have one shape over HTTP, and internals stay inside."""

from __future__ import annotations

import json

import msgspec
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from stream_protocol.errors import RemoteProtocolError
from stream_server.errors import BadAudio, InvalidField, Overloaded, TooLarge, Unauthorized
from stream_server.transports.answers import (
    error_response,
    json_response,
    refusal,
    refuse_http,
)


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (BadAudio("b", field="file"), 400, "bad_audio", "invalid_request_error"),
        (InvalidField("i", field="steps"), 400, "invalid_field", "invalid_request_error"),
        (TooLarge("t"), 413, "too_large", "invalid_request_error"),
        (RemoteProtocolError("bad_message", "m"), 400, "bad_message", "invalid_request_error"),
        (Overloaded("o"), 503, "overloaded", "server_error"),
        (RuntimeError("secret"), 500, "internal", "server_error"),
    ],
)
def test_an_error_has_its_status_and_code(error, status, code, kind) -> None:
    answer = error_response(error)
    body = json.loads(answer.body)["error"]
    assert (answer.status_code, body["code"], body["type"]) == (status, code, kind)
    assert body["param"] == getattr(error, "field", None)
    assert "secret" not in body["message"]


def test_headers_say_what_to_do() -> None:
    assert error_response(Unauthorized("u")).headers["WWW-Authenticate"] == "Bearer"
    assert int(error_response(Overloaded("o")).headers["Retry-After"]) >= 1
    assert "Retry-After" not in error_response(BadAudio("b")).headers


def test_the_routers_refusals_have_the_same_shape() -> None:
    scope = {"type": "http", "method": "PUT", "path": "/x", "headers": [], "query_string": b""}
    scope["server"] = ("host", 80)
    answer = refuse_http(Request(scope), HTTPException(405, headers={"Allow": "GET"}))
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert json.loads(answer.body)["error"]["code"] == "method_not_allowed"
    assert refuse_http(Request(scope), RuntimeError("secret")).status_code == 500


def test_a_struct_becomes_json() -> None:
    class Point(msgspec.Struct):
        x: int

    answer = json_response(Point(1), 201, {"X-A": "b"})
    assert (answer.body, answer.status_code) == (b'{"x":1}', 201)
    assert answer.headers["content-type"] == "application/json"


def test_what_an_api_has_and_we_lack_is_refused_in_its_form() -> None:
    answer = refusal(404, "model_not_found", "no such model", "model")
    assert (answer.status_code, json.loads(answer.body)["error"]) == (
        404,
        {
            "message": "no such model",
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": "model",
        },
    )

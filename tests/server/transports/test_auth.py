"""Keys come in many ways, and only a right one opens."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from stream_server.errors import Unauthorized
from stream_server.transports.auth import Keys


def connection(query: str = "", **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), v.encode("latin-1")) for name, v in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "query_string": query.encode()})


@pytest.mark.parametrize(
    "right",
    [
        connection(authorization="Bearer sesame"),
        connection(authorization="bearer  sesame"),
        connection(x_api_key="open"),
        connection("api_key=sesame"),
        connection("api_key=wrong", x_api_key="open"),
        connection(sec_websocket_protocol="diffscribe.v1, diffscribe.key.c2VzYW1l"),
        # As clients of OpenAI, Deepgram, AssemblyAI and Speechmatics bring it.
        connection(sec_websocket_protocol="realtime, openai-insecure-api-key.sesame"),
        connection(authorization="Token sesame"),
        connection(sec_websocket_protocol="token, sesame"),
        connection(sec_websocket_protocol="bearer, sesame"),
        connection(authorization="sesame"),
        connection("token=sesame"),
        connection("jwt=sesame"),
    ],
)
def test_a_right_key_opens(right: HTTPConnection) -> None:
    Keys(["open", "sesame"]).check(right)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (connection(), "no API key"),
        (connection(authorization="Basic sesame"), "no API key"),
        (connection(authorization=""), "no API key"),
        (connection(sec_websocket_protocol="token"), "no API key"),
        (connection(sec_websocket_protocol="other, sesame"), "no API key"),
        (connection(sec_websocket_protocol="other, token, sesame"), "no API key"),
        (connection(authorization="Bearer"), "not valid"),
        (connection(authorization="Bearer sesam"), "not valid"),
        (connection(authorization="Bearer sesame2"), "not valid"),
        (connection(x_api_key=""), "not valid"),
        (connection(x_api_key="s\xe9same"), "not valid"),
        (connection("api_key=%ff%fe"), "not valid"),
        (connection(sec_websocket_protocol="diffscribe.v1"), "no API key"),
        (connection(sec_websocket_protocol="diffscribe.key.____"), "not valid"),
        (connection(sec_websocket_protocol="diffscribe.key.!"), "not valid"),
        (connection("&".join(["api_key=x"] * 20) + "&api_key=sesame"), "not valid"),
    ],
)
def test_a_wrong_key_does_not(wrong: HTTPConnection, said: str) -> None:
    with pytest.raises(Unauthorized, match=said):
        Keys(["open", "sesame"]).check(wrong)


def test_without_keys_the_server_is_open() -> None:
    Keys(()).check(connection(authorization="Bearer anything"))


def test_servers_with_the_same_keys_derive_the_same_secret() -> None:
    one, two = Keys(["a", "b"]), Keys(["b", "a"])
    assert one.derive(b"x") == two.derive(b"x") != one.derive(b"y")
    assert one.derive(b"x") != Keys(["a"]).derive(b"x")
    assert Keys(()).derive(b"x") != Keys(()).derive(b"x")


def test_a_key_is_not_kept_as_text() -> None:
    assert b"sesame" not in b"".join(Keys(["sesame"])._digests)

"""Keys come in many ways, and only a right one opens."""

from __future__ import annotations

import contextlib
import hmac
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from stream_server.errors import ConfigError, Unauthorized
from stream_server.keyring import ANYONE, make_key, remove_key, write_keys
from stream_server.transports import auth
from stream_server.transports.auth import Keys
from stream_server.transports.tokens import Tokens


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


def test_a_key_is_not_kept_as_text() -> None:
    assert all(b"sesame" not in key.digest for key in Keys(["sesame"])._all())
    assert "sesame" not in repr(Keys(["sesame"])._all())


def test_who_it_is_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage", 3)
    keys = Keys(["sesame"], file)
    assert keys.check(connection(x_api_key="sesame")).key.name == "api-key:1"
    stage = keys.check(connection(x_api_key=secret)).key
    assert (stage.name, stage.max_sessions) == ("stage", 3)
    assert Keys().check(connection()).key is ANYONE


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=compare))
    keys = Keys(["first", "second", "third"])
    for offered in ("first", "third", "none"):
        with contextlib.suppress(Unauthorized):
            keys.check(connection(x_api_key=offered))
        assert len(compared) == 3
        compared.clear()


# --- the file -------------------------------------------------------------------------------------


def test_a_file_without_keys_opens_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    write_keys(file, [])
    keys = Keys((), file)
    assert not keys.is_open
    with pytest.raises(Unauthorized):
        keys.check(connection(x_api_key=""))


def test_the_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    old = make_key(file, "stage")
    keys = Keys(["sesame"], file)
    assert not keys.has_changed
    new = make_key(file, "bot")
    assert keys.has_changed
    with pytest.raises(Unauthorized):
        keys.check(connection(x_api_key=new))
    assert keys.reload() == frozenset()
    assert not keys.has_changed
    keys.check(connection(x_api_key=new))
    remove_key(file, "stage")
    assert keys.reload() == {"stage"}
    with pytest.raises(Unauthorized):
        keys.check(connection(x_api_key=old))
    remove_key(file, "bot")
    make_key(file, "bot")
    assert keys.reload() == {"bot"}  # the name is there, the key is another
    assert Keys(["sesame"]).reload() == frozenset()


def test_a_file_that_turned_wrong_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    keys = Keys((), file)
    file.write_text("[keys.stage]\nsha256 = 1\n")
    assert keys.has_changed
    with pytest.raises(ConfigError):
        keys.reload()
    assert not keys.has_changed  # told once
    keys.check(connection(x_api_key=secret))
    file.unlink()
    assert keys.has_changed
    with pytest.raises(ConfigError):
        keys.reload()
    keys.check(connection(x_api_key=secret))


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_stands_for_its_key_where_it_may(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    keys = Keys(["sesame"], file)
    stage = keys.check(connection(x_api_key=secret)).key
    token = keys.make_token(stage, ("session", "watch"), 60, settings=b'{"x":1}').value
    for offer in (
        connection(authorization=f"Bearer {token}"),
        connection(f"token={token}"),
        connection(sec_websocket_protocol=f"realtime, openai-insecure-api-key.{token}"),
        connection(sec_websocket_protocol=f"bearer, {token}"),
    ):
        caller = keys.check(offer, "session")
        assert caller.key == stage
        assert caller.grant is not None
        assert caller.grant.settings == b'{"x":1}'
        for scope in ("file", None):
            with pytest.raises(Unauthorized, match="session and watch does not open this"):
                keys.check(offer, scope)
    assert keys.check(connection(x_api_key=secret), "session").grant is None


def test_a_token_is_withdrawn_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    keys = Keys((), file)
    token = keys.make_token(keys.check(connection(x_api_key=secret)).key, ("file",), 60).value
    keys.check(connection(x_api_key=token), "file")
    remove_key(file, "stage")
    make_key(file, "stage")
    keys.reload()
    with pytest.raises(Unauthorized, match="withdrawn"):
        keys.check(connection(x_api_key=token), "file")


def test_servers_that_share_a_secret_take_each_others_tokens() -> None:
    one, other = (Keys(["sesame"], tokens=Tokens("s" * 32)) for _ in range(2))
    token = one.make_token(one.check(connection(x_api_key="sesame")).key, ("file",), 60).value
    assert other.check(connection(x_api_key=token), "file").key.name == "api-key:1"
    for stranger in (Keys(["sesame"]), Keys(["other"], tokens=Tokens("s" * 32))):
        with pytest.raises(Unauthorized):
            stranger.check(connection(x_api_key=token), "file")


def test_an_open_server_makes_tokens_too_and_takes_any() -> None:
    keys = Keys()
    token = keys.make_token(ANYONE, ("session",), 60, settings=b"1").value
    grant = keys.check(connection(x_api_key=token), "session").grant
    assert grant is not None
    assert grant.settings == b"1"
    assert Keys().check(connection(x_api_key=token), "session").grant is None


async def test_a_guarded_handler_answers_holders_of_a_key_alone() -> None:
    async def handler(request: Request) -> Response:
        return Response("in")

    guarded = Keys(["sesame"]).guard(handler)
    right = Request({**connection(x_api_key="sesame").scope, "method": "GET"})
    wrong = Request({**connection().scope, "method": "GET"})
    assert (await guarded(right)).body == b"in"
    assert (await guarded(wrong)).status_code == 401

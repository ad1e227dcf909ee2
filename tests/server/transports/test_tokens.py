"""Tokens say what they were made for until they expire; nobody else makes or changes one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.errors import Unauthorized
from stream_server.transports.tokens import Grant, Tokens

GRANT = Grant("mark", ("session", "file"), None, b'{"a":[1]}')
SECRET = "s" * 32


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_it_says_comes_back_until_it_expires() -> None:
    clock = Clock()
    tokens = Tokens(SECRET, clock)
    made = tokens.make(GRANT, 60)
    assert made.expires_at == 1060
    assert tokens.open(made.value) == GRANT
    assert Tokens(SECRET, clock).open(made.value) == GRANT
    watch = Grant("m", ("watch",), "stage")
    assert tokens.open(tokens.make(watch, 60).value) == watch
    clock.now = 1061.0
    with pytest.raises(Unauthorized, match="expired"):
        tokens.open(made.value)


def test_servers_without_a_secret_take_only_their_own() -> None:
    one, other = Tokens(), Tokens()
    made = one.make(GRANT, 60)
    assert one.open(made.value) == GRANT
    assert other.open(made.value) is None
    assert Tokens("t" * 32).open(Tokens(SECRET).make(GRANT, 60).value) is None


def test_the_mark_of_a_key_says_nothing_of_it() -> None:
    tokens = Tokens(SECRET)
    assert tokens.mark(b"digest") == tokens.mark(b"digest") != tokens.mark(b"other")
    assert tokens.mark(b"digest") != Tokens("t" * 32).mark(b"digest")
    assert b"digest".hex() not in tokens.mark(b"digest")


@given(st.text() | st.text("abcdefghijklmnop-_=", max_size=200).map("ek_".__add__))
def test_anything_else_is_something_else(value: str) -> None:
    assert Tokens(SECRET).open(value) is None


@given(st.integers(3, 100), st.sampled_from("AZ_-09"))
def test_a_changed_one_is_something_else(place: int, letter: str) -> None:
    tokens = Tokens(SECRET)
    value = tokens.make(GRANT, 60).value
    changed = value[:place] + letter + value[place + 1 :]
    if changed != value:
        assert tokens.open(changed) is None


def test_a_token_of_another_version_is_none() -> None:
    tokens = Tokens(SECRET)
    odd = Grant("mark", ("fly",))  # type: ignore[arg-type]
    assert tokens.open(tokens.make(odd, 60).value) is None


def test_a_long_one_is_not_looked_at() -> None:
    tokens = Tokens(SECRET)
    grant = Grant("mark", ("session",), None, b'"' + b"x" * 5000 + b'"')
    assert tokens.open(tokens.make(grant, 60).value) is None

"""A meeting on one socket: pieces with a header in, replies that name who spoke out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.errors import RemoteProtocolError
from stream_server.transports.jigasi import HEADER_BYTES, Piece, Reply, Stretch, read_piece


def header(text: str, pad: bytes = b"\0") -> bytes:
    return text.encode().ljust(HEADER_BYTES, pad)


@pytest.mark.parametrize(
    ("text", "pad", "expected"),
    [
        ("abcd1234|en-US", b"\0", Piece("abcd1234", "en", b"\1\2")),
        ("abcd1234|de", b" ", Piece("abcd1234", "de", b"\1\2")),
        ("room@muc/5c1d|null", b"\0", Piece("room@muc/5c1d", None, b"\1\2")),
        ("Zoë", b"\0", Piece("Zoë", None, b"\1\2")),
    ],
)
def test_a_header_names_who_speaks(text: str, pad: bytes, expected: Piece) -> None:
    assert read_piece(header(text, pad) + b"\1\2") == expected


def test_a_single_zero_ends_the_meeting() -> None:
    assert read_piece(b"\0") is None


@pytest.mark.parametrize("frame", ["text", b"", b"\1", b"a|en", b"\xff" * HEADER_BYTES])
def test_anything_else_is_refused(frame: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_piece(frame)


@given(st.binary(max_size=200) | st.text())
def test_any_frame_is_taken_or_refused(frame: str | bytes) -> None:
    try:
        piece = read_piece(frame)
    except RemoteProtocolError:
        return
    assert (piece is None) == (frame == b"\0")


def stretch() -> Stretch:
    ids = (f"id {number}" for number in itertools.count())
    return Stretch("anna", 1_000_000, lambda: next(ids))


def test_interims_and_their_final_have_one_id(partial, final) -> None:
    told = stretch()
    first = told.tell(partial(0, "one", " two", start=16_000))
    assert first == Reply("id 0", "anna", 1_001_000, "one two", "interim")
    assert told.tell(partial(0, "one two", start=16_000)) is None, "nothing new"
    last = told.tell(final(0, "one two three ", start=16_000))
    assert last == Reply("id 0", "anna", 1_001_000, "one two three", "final")
    following = told.tell(final(1, "four", start=48_000))
    assert following == Reply("id 1", "anna", 1_003_000, "four", "final")


def test_nothing_said_is_not_told(partial, final) -> None:
    told = stretch()
    assert told.tell(partial(0, "", "  ")) is None
    assert told.tell(final(0, " ")) is None


def test_the_variance_is_a_number_with_a_point(final) -> None:
    text = msgspec.json.encode(stretch().tell(final(0, "one"))).decode()
    assert '"variance":0.0' in text
    shown: dict[str, Any] = json.loads(text)
    assert list(shown) == ["id", "participant_id", "ts", "text", "type", "audio", "variance"]

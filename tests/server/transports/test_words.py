"""Words without punctuation, in other units, and of partials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.messages import Word
from stream_server.transports.words import (
    bare,
    mean_confidence,
    milliseconds,
    partial_words,
    seconds,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "hello world"),
        ("Don't pay 3.14.", "don't pay 3.14"),
        ("Well -- a co-op?", "well a co-op"),
        ("«Où?»", "où"),
        ("...", ""),
        ("", ""),
    ],
)
def test_bare_text_is_what_was_spoken(text: str, expected: str) -> None:
    assert bare(text) == expected


@given(st.text(max_size=30))
def test_bare_text_stays_bare(text: str) -> None:
    assert bare(bare(text)) == bare(text)


def test_units() -> None:
    assert seconds(24_001) == 1.5
    assert milliseconds(24_001) == 1500


def test_words_of_a_partial_share_its_audio(partial) -> None:
    words = partial_words(partial(0, "ab abcd", " ab", start=800, end=1600))
    assert [word.text for word in words] == ["ab", "abcd", "ab"]
    assert [(word.start, word.end) for word in words] == [(800, 1000), (1000, 1400), (1400, 1600)]
    assert [word.confidence for word in words] == [1.0, 1.0, 0.0]


def test_a_word_that_is_stable_in_part_is_not(partial) -> None:
    assert [word.confidence for word in partial_words(partial(0, "a be", "tter"))] == [1.0, 0.0]


def test_the_mean_of_no_words_is_nothing() -> None:
    assert mean_confidence([]) == 0.0
    assert mean_confidence([Word("a", 0, 1, 0.2), Word("b", 1, 2, 0.6)]) == pytest.approx(0.4)

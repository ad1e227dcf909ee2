"""Words against words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stream_server.recogniser.interface import HypothesisWord
from stream_server.transcript.text import (
    begin_at,
    follow,
    join,
    matching_end,
    plain,
    rest,
    without_leading_space,
)


def words(text: str) -> tuple[HypothesisWord, ...]:
    parts = text.split()
    return tuple(HypothesisWord(f" {part}" if i else part, 0.9) for i, part in enumerate(parts))


def test_plain_leaves_letters_and_digits() -> None:
    assert plain(" Don't,") == "dont"
    assert plain(" STRASSE") == plain("straße")
    assert plain(" -") == "-"


def test_the_first_word_begins_with_the_speech() -> None:
    one, two = HypothesisWord("one", 0.9, 640, 9600), HypothesisWord(" two", 0.9, 9600, 12800)
    assert begin_at((one, two), 4800) == (replace(one, start=4800), two)
    assert begin_at((one, two), 640) == begin_at((one, two), 0) == (one, two)
    # It was said before anything was taken for speech, or nobody knows when.
    assert begin_at((one, two), 9600) == (one, two)
    assert begin_at(words("one two"), 4800) == words("one two")
    assert begin_at((), 4800) == ()


def test_without_leading_space() -> None:
    given = (HypothesisWord(" ", 1.0), HypothesisWord(" one", 1.0), HypothesisWord(" two", 1.0))
    assert join(without_leading_space(given)) == "one two"
    assert without_leading_space(()) == ()


@pytest.mark.parametrize(
    ("stable", "heard", "end"),
    [
        ("one two", "one two three", 2),
        ("one two", "one too three", 2),
        ("one two", "two three", 1),
        ("one two", "so one two three", 3),
        ("one two", "", 0),
        ("one two", "one", 1),
    ],
)
def test_matching_end(stable: str, heard: str, end: int) -> None:
    assert matching_end(stable.split(), heard.split()) == end


@pytest.mark.parametrize(
    ("stable", "heard", "result"),
    [
        ("one two", "one two three", "one two three"),
        ("one two", "One, two three", "one two three"),
        ("one two", "one too three four", "one two three four"),
        ("one two", "three", "one two"),  # a word rewritten, rather than one lost and one new
        ("one two three", "three four", "one two three four"),
        ("one two", "", "one two"),
        ("", "one", "one"),
    ],
)
def test_follow_keeps_what_is_stable(stable: str, heard: str, result: str) -> None:
    assert join(follow(words(stable), words(heard))) == result


@pytest.mark.parametrize(
    ("said", "text", "more"),
    [
        ("", "one two", "one two"),
        ("one", "one two", " two"),
        ("on", "one two", "e two"),  # the same beginning: nothing is compared
        ("one too", "one two three", " three"),
        ("one two", "two three", " three"),
        ("one two", "one", ""),
        ("one", "", ""),
        ("one two", "", ""),
        ("你号", "你好吗", "吗"),
    ],
)
def test_the_rest_is_what_follows_what_was_said(said: str, text: str, more: str) -> None:
    assert rest(said, text) == more


def test_follow_takes_newer_confidences_of_the_same_words() -> None:
    newer = (HypothesisWord("one", 0.5), HypothesisWord(" two", 0.4))
    assert follow(words("one"), newer) == newer


def test_follow_puts_no_spaces_into_a_script_without_them() -> None:
    kept = (HypothesisWord("你", 1.0), HypothesisWord("好", 1.0))
    heard = (HypothesisWord("您", 1.0), HypothesisWord("好", 1.0), HypothesisWord("吗", 1.0))
    assert join(follow(kept, heard)) == "你好吗"

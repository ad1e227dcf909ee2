"""Pieces that are appended make the whole text, whatever order partials come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.messages import Final, Partial, Timings
from stream_server.transports.growing_text import GrowingText


def partial(segment: int, stable: str, tentative: str = "") -> Partial:
    return Partial(segment, 0, 1, stable, tentative, 0, 1)


def final(segment: int, text: str) -> Final:
    return Final(segment, 0, 1, text, 0, 1, None, 0.5, None, Timings(0, 0, 0, 1))


def test_stable_words_come_once() -> None:
    words = GrowingText()
    words.begin(0)
    assert words.has_begun
    assert words.grow(partial(0, "", "a boat")) == ""
    assert words.grow(partial(0, "a ", "boat")) == "a"
    assert words.grow(partial(0, "a", " boat")) == ""
    assert words.grow(partial(0, "a boat", " sails")) == " boat"
    assert words.finish(final(0, "a boat sailed")) == " sailed"
    assert words.text == "a boat sailed"


def test_a_word_that_the_final_corrects_stays_and_the_rest_follows() -> None:
    words = GrowingText()
    words.begin(0)
    assert words.grow(partial(0, "soft blanks an", " eleven")) == "soft blanks an"
    assert words.finish(final(0, "oh blessed an eleven men")) == " eleven men"
    assert words.text == "oh blessed an eleven men"
    words.begin(1)
    assert words.grow(partial(1, "one two")) == " one two"
    assert words.finish(final(1, "one")) == ""
    assert words.text == "oh blessed an eleven men one"


def test_words_of_a_later_segment_wait_for_the_earlier_one() -> None:
    words = GrowingText()
    words.begin(0)
    words.begin(1)
    assert words.grow(partial(1, "two")) == ""
    assert words.finish(final(0, "one")) == "one"
    assert words.grow(partial(1, "two")) == " two"
    assert words.finish(final(1, "two three")) == " three"


def test_what_is_not_known_adds_nothing() -> None:
    words = GrowingText()
    assert words.grow(partial(3, "x")) == words.finish(final(3, "x")) == words.text == ""
    words.begin(0)
    assert words.finish(final(0, "  ")) == ""
    words.begin(1)
    assert words.grow(partial(1, "a b")) == "a b"
    assert words.grow(partial(1, "b")) == ""  # it was promised otherwise: nothing is taken back


@given(st.lists(st.lists(st.sampled_from(["a", "bc", "déf"]), max_size=5), max_size=4), st.data())
def test_the_pieces_are_the_text(segments: list[list[str]], data: st.DataObject) -> None:
    words, pieces = GrowingText(), []
    for number, segment in enumerate(segments):
        words.begin(number)
        for count in sorted(data.draw(st.lists(st.integers(0, len(segment)), max_size=3))):
            pieces.append(words.grow(partial(number, " ".join(segment[:count]))))
        pieces.append(words.finish(final(number, " ".join(segment))))
    assert "".join(pieces) == words.text == " ".join(" ".join(s) for s in segments if s)

"""The check of words fails where words are wrong or missing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recording import Recording

SAID = ("nine eight seven six", "So the baby elephant followed Crow.", "Set white in u five soon")
RECORDING = Recording(SAID, np.zeros(0, np.int16), ())
HEARD = ["nine eight", "seven six", "so the baby elephant follow crow", "set white in u five soon"]


def test_a_word_misheard_is_let_pass_however_the_text_is_divided() -> None:
    RECORDING.check(SAID)
    RECORDING.check(HEARD)
    RECORDING.check([" ".join(HEARD).upper()])
    RECORDING.check(HEARD[:2], utterances=1)


@pytest.mark.parametrize(
    "heard",
    [
        [],
        [""],
        HEARD[2:],
        HEARD[:2] + HEARD[3:],
        HEARD[:3],
        HEARD[:1] + HEARD[2:] + ["nine", "nine", "nine"],
        HEARD[::-1],
        [*HEARD, *HEARD[:2]],
        ["some other words that nobody said at all", *HEARD[1:]],
        [" ".join(HEARD).replace("five soon", "nine now").replace("white in", "blue at")],
    ],
)
def test_words_that_are_missing_or_wrong_or_out_of_order_or_doubled_fail(heard: list[str]) -> None:
    with pytest.raises(AssertionError):
        RECORDING.check(heard)


def test_its_beginning_is_what_was_said_until_then() -> None:
    whole = Recording(SAID, np.arange(32_000, dtype=np.int16), (0.5, 1.0, 1.5))
    begun = whole.first(2)
    assert (begun.said, begun.starts) == (SAID[:2], (0.5, 1.0))
    assert np.array_equal(begun.samples, np.arange(24_000))
    assert whole.first(3) is whole.first(9) is whole


def test_an_utterance_may_not_be_lost_among_many() -> None:
    many = Recording(tuple(f"{word} {word}" for word in "abcdefghijkl"), RECORDING.samples, ())
    with pytest.raises(AssertionError, match="'c c' is not in"):
        many.check([text for text in many.said if text != "c c"])


def test_a_word_that_a_final_corrected_may_stay_in_the_pieces_and_no_more() -> None:
    text = " ".join(HEARD)
    assert RECORDING.is_but_for_corrections("".join(HEARD), text)
    assert RECORDING.is_but_for_corrections(text.replace("baby", "maybe"), text)
    assert not RECORDING.is_but_for_corrections(" ".join(HEARD[1:]), text)
    assert not RECORDING.is_but_for_corrections(f"{text} {HEARD[2]}", text)
    assert not RECORDING.is_but_for_corrections("", text)

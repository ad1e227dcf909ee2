"""Delays and revisions are those that a hand count gives."""

from __future__ import annotations

import pytest

from stream_protocol.messages import (
    Done,
    Error,
    Final,
    Partial,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Timings,
)
from stream_server.evaluation.track import Timed, erased, follow, joined, revised, words_of

SECOND = 16_000


def partial(text: str, segment: int = 0, stable: str = "") -> Partial:
    return Partial(segment, 0, 1, stable, text, start=0, end=0)


def final(text: str, segment: int = 0, end: int = 2 * SECOND) -> Final:
    timings = Timings(audio_ms=0, queue_ms=0, decode_ms=0, steps=8)
    return Final(
        segment=segment,
        channel=0,
        revision=2,
        text=text,
        start=0,
        end=end,
        language="en",
        confidence=1.0,
        words=None,
        timings=timings,
    )


def timed(*pairs: tuple[float, ServerMessage]) -> list[Timed]:
    return [Timed(at, message) for at, message in pairs]


STREAM = timed(
    (1.1, SpeechStarted(0, 0, at=SECOND)),
    (1.5, partial("the cat")),
    (2.0, partial("bat sat down", stable="the ")),
    (2.6, SpeechEnded(0, 0, at=2 * SECOND)),
    (2.7, final("the cat sat")),
    (3.0, Done(samples=3 * SECOND, segments=1)),
)


def test_delays_count_from_the_moment_of_speaking() -> None:
    track = follow(STREAM, 3 * SECOND)
    assert track.first_partial_ms == pytest.approx((500,))
    assert track.final_ms == pytest.approx((700,))
    assert track.finalise_ms == pytest.approx((100,))
    assert track.problems == ()


def test_revisions_are_counted_over_the_words_of_finals() -> None:
    track = follow(STREAM, 3 * SECOND)
    # cat -> bat; then bat -> cat, and down is left out.
    assert (track.partials, track.words, track.unstable) == (2, 3, 1 + 2)
    # Behind the common "the": first one word, then three.
    assert track.erased == 1 + 3


def test_text_that_only_grows_is_stable() -> None:
    grown = timed((1, partial("a")), (2, partial("a b")), (3, final("a b c")))
    track = follow(grown, 3 * SECOND)
    assert (track.unstable, track.erased) == (0, 0)
    assert track.problems == ("the stream was not told that it is done",)


def test_segments_do_not_revise_each_other() -> None:
    two = timed(
        (1, partial("a")), (2, final("a")), (3, partial("b", 1)), (4, final("b", 1, 3 * SECOND))
    )
    track = follow(two, 4 * SECOND)
    assert (track.words, track.unstable, track.erased) == (2, 0, 0)
    assert joined(two) == "a b"


def test_errors_are_kept() -> None:
    error = Error("recognition_failed", "it failed", None, retryable=True, fatal=False)
    assert "it failed" in follow(timed((1, error)), SECOND).problems[0]


def test_an_inserted_word_revises_none_and_erases_what_follows() -> None:
    assert revised(["a", "c"], ["a", "b", "c"]) == 0
    assert erased(["a", "c"], ["a", "b", "c"]) == 1
    assert revised(["a"], []) == 1
    assert revised([], ["a"]) == 0


def test_mandarin_counts_characters() -> None:
    assert words_of("你好 世界", "zh") == ["你", "好", "世", "界"]
    assert words_of("good day", "en") == ["good", "day"]

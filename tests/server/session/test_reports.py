"""Updates and replies as messages."""

from __future__ import annotations

import numpy as np
import pytest

from stream_server.errors import Overloaded, RecognitionFailed
from stream_server.recogniser.interface import Hypothesis, HypothesisWord, Utterance
from stream_server.scheduler.request import Decoded, Dropped, Failed, Request
from stream_server.session.reports import (
    failed_final,
    final_message,
    partial_message,
    spread,
    trace_messages,
)
from stream_server.transcript.transcript import Transcript

REQUEST = Request("s", 7, 2, True, Utterance(np.zeros(16_000, np.float32), 8, "en"))
WORDS = (HypothesisWord("one", 0.9, 100, 4000), HypothesisWord(" two", 0.7, 5000, 9000))


def test_a_final_carries_text_words_and_where_the_time_went() -> None:
    hypothesis = Hypothesis((1, 2), (0.9, 0.7), WORDS, step=6, is_final=True, language="de")
    update = Transcript(7, 1000).update(hypothesis, 17_000, is_final=True)
    final = final_message(1, update, Decoded(REQUEST, hypothesis, 3.0, 40.0), with_words=True)
    assert (final.segment, final.channel, final.text, final.language) == (7, 1, "one two", "de")
    assert (final.start, final.end) == (1000, 17_000)
    assert final.confidence == pytest.approx(0.8)
    assert final.words is not None
    assert [(w.text, w.start, w.end) for w in final.words] == [
        ("one", 1100, 5000),
        ("two", 6000, 10_000),
    ]
    timings = final.timings
    assert (timings.audio_ms, timings.queue_ms, timings.decode_ms, timings.steps) == (
        1000.0,
        3.0,
        40.0,
        6,
    )


def test_an_empty_final_has_no_confidence_and_no_words_unless_asked() -> None:
    hypothesis = Hypothesis((), (), (), step=1, is_final=True)
    update = Transcript(7, 0).update(hypothesis, 16_000, is_final=True)
    final = final_message(0, update, Decoded(REQUEST, hypothesis, 0.0, 0.0), with_words=False)
    assert (final.text, final.confidence, final.words, final.language) == ("", 0.0, None, "en")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Failed(REQUEST, RecognitionFailed("the model raised")), "recognition_failed"),
        (Failed(REQUEST, Overloaded("full")), "overloaded"),
        (Dropped(REQUEST, "expired"), "timeout"),
    ],
)
def test_a_failed_segment_gets_an_error_that_is_not_fatal_and_a_final(
    reply: Failed | Dropped, code: str
) -> None:
    error, final = failed_final(0, Transcript(7, 0).close(16_000), reply, with_words=True)
    assert (error.code, error.fatal, error.retryable) == (code, False, True)
    assert "segment 7" in error.message
    assert (final.text, final.end, final.words) == ("", 16_000, [])


def test_a_partial_says_what_is_stable() -> None:
    transcript = Transcript(2, 10)
    hypothesis = Hypothesis((), (), WORDS, step=1, is_final=True)
    transcript.update(hypothesis, 20, is_final=False)
    partial = partial_message(2, 0, transcript.update(hypothesis, 30, is_final=False))
    assert (partial.stable, partial.tentative, partial.revision) == ("one", " two", 2)
    assert (partial.start, partial.end) == (10, 30)


def test_a_trace_shows_each_canvas_where_there_are_any() -> None:
    hypothesis = Hypothesis((), (), WORDS, step=2, is_final=True)
    (trace,) = trace_messages(1, Decoded(REQUEST, hypothesis, 0.0, 0.0, ("one boat", "one two")))
    assert (trace.segment, trace.channel, trace.revision) == (7, 1, 2)
    assert trace.canvases == ["one boat", "one two"]
    assert trace_messages(1, Decoded(REQUEST, hypothesis, 0.0, 0.0)) == []
    assert trace_messages(1, Dropped(REQUEST, "expired")) == []


def test_unknown_times_share_what_lies_between_known_ones() -> None:
    words = [
        HypothesisWord("aa", 1.0),
        HypothesisWord(" bb", 1.0),
        HypothesisWord(" c", 1.0, 800, 900),
        HypothesisWord(" dd", 1.0),
    ]
    spans = [(word.start, word.end) for word in spread(words, 1000, 2000)]
    assert spans == [(1000, 1400), (1400, 1800), (1800, 1900), (1900, 2000)]


def test_times_never_go_back_nor_leave_the_segment() -> None:
    words = [
        HypothesisWord("a", 1.0, 500, 400),
        HypothesisWord(" b", 1.0, 100, 300),
        HypothesisWord(" ", 1.0, 0, 0),
        HypothesisWord(" c", 1.0, 5000, 9000),
    ]
    spans = [(word.start, word.end) for word in spread(words, 0, 1000)]
    assert spans == [(500, 500), (500, 500), (1000, 1000)]

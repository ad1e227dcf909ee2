"""Stable and tentative text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_server.recogniser.interface import Hypothesis, HypothesisWord
from stream_server.transcript.transcript import Transcript


def hypothesis(text: str, confidence: float = 0.9) -> Hypothesis:
    words = tuple(
        HypothesisWord(f" {word}" if index else word, confidence)
        for index, word in enumerate(text.split())
    )
    return Hypothesis((), (), words, step=1, is_final=True)


def test_a_word_is_stable_once_it_survived_and_was_not_the_last() -> None:
    transcript = Transcript(3, 1600)
    first = transcript.update(hypothesis("one two"), 5000, is_final=False)
    assert (first.stable, first.tentative) == ("", "one two")
    second = transcript.update(hypothesis("one two"), 6000, is_final=False)
    assert (second.stable, second.tentative) == ("one", " two")
    third = transcript.update(hypothesis("one two three"), 7000, is_final=False)
    assert (third.stable, third.tentative) == ("one two", " three")
    assert [first.revision, second.revision, third.revision] == [1, 2, 3]
    assert (third.start, third.end, third.is_final) == (1600, 7000, False)


def test_a_word_of_little_confidence_waits_for_more() -> None:
    transcript = Transcript(0, 0)
    for _ in range(3):
        assert transcript.update(hypothesis("one two", 0.49), 1, is_final=False).stable == ""
    assert transcript.update(hypothesis("one two", 0.5), 1, is_final=False).stable == "one"


def test_a_word_that_changed_waits_again() -> None:
    transcript = Transcript(0, 0)
    transcript.update(hypothesis("for tea two"), 1, is_final=False)
    update = transcript.update(hypothesis("forty two nine"), 2, is_final=False)
    assert update.stable == ""
    assert transcript.update(hypothesis("forty two nine"), 3, is_final=False).stable == "forty two"


def test_a_partial_keeps_stable_text_and_takes_the_rest_from_the_last_hypothesis() -> None:
    transcript = Transcript(0, 0)
    transcript.update(hypothesis("call me at"), 1, is_final=False)
    assert transcript.update(hypothesis("call me at"), 2, is_final=False).stable == "call me"
    partial = transcript.update(hypothesis("Call me at eight"), 3, is_final=False)
    assert (partial.stable, partial.tentative) == ("call me at", " eight")


def test_the_final_is_what_was_heard_whatever_was_stable() -> None:
    transcript = Transcript(0, 0)
    for end in (1, 2):
        transcript.update(hypothesis("call me at"), end, is_final=False)
    assert transcript.stable == "call me"
    final = transcript.update(hypothesis("all meet at eight"), 3, is_final=True)
    assert (final.stable, final.tentative) == ("all meet at eight", "")
    assert final.is_final


def timed(text: str, *ends: int) -> Hypothesis:
    words = tuple(
        HypothesisWord(f" {word}" if index else word, 0.9, end - 1000, end)
        for index, (word, end) in enumerate(zip(text.split(), ends, strict=True))
    )
    return Hypothesis((), (), words, step=1, is_final=True)


def test_words_that_may_be_cut_off_are_not_stable_before_the_final() -> None:
    transcript = Transcript(0, 100_000)
    said = timed("one two three four", 4000, 8000, 12_000, 16_000)
    transcript.update(said, 116_000, is_final=False, earliest_cut=110_000)
    update = transcript.update(said, 117_000, is_final=False, earliest_cut=110_000)
    assert (update.stable, update.tentative) == ("one two", " three four")
    # A time within 100 ms of the cut may be wrong.
    update = transcript.update(said, 117_000, is_final=False, earliest_cut=113_000)
    assert update.stable == "one two"
    update = transcript.update(said, 117_000, is_final=False, earliest_cut=114_000)
    assert update.stable == "one two three"
    assert transcript.update(said, 118_000, is_final=True, earliest_cut=0).tentative == ""


def test_without_times_nothing_is_stable_once_the_audio_is_past_the_cut() -> None:
    transcript = Transcript(0, 0)
    transcript.update(hypothesis("one two"), 9000, is_final=False, earliest_cut=10_000)
    update = transcript.update(hypothesis("one two"), 10_000, is_final=False, earliest_cut=10_000)
    assert update.stable == "one"
    for _ in range(2):
        update = transcript.update(
            hypothesis("one two three"), 10_001, is_final=False, earliest_cut=10_000
        )
    assert update.stable == "one"


def test_close_gives_what_was_promised() -> None:
    transcript = Transcript(0, 0)
    assert transcript.close(5).text == ""
    transcript.update(hypothesis("one two"), 1, is_final=False)
    transcript.update(hypothesis("one two"), 2, is_final=False)
    closed = transcript.close(9)
    assert (closed.stable, closed.tentative, closed.end, closed.is_final) == ("one", "", 9, True)


texts = st.lists(st.sampled_from(["a", "b", "c", "cat", "bat", "B,"]), max_size=8).map(" ".join)


@given(revisions=st.lists(texts, min_size=1, max_size=8))
def test_stable_text_only_grows(revisions: list[str]) -> None:
    transcript = Transcript(0, 0)
    stable = ""
    for number, text in enumerate(revisions, start=1):
        is_final = number == len(revisions)
        update = transcript.update(hypothesis(text), number, is_final=is_final)
        assert is_final or update.stable.startswith(stable)
        assert update.stable == transcript.stable
        assert update.text == "".join(word.text for word in update.words)
        assert update.text == update.text.strip()
        assert update.revision == number
        stable = update.stable
    assert (update.stable, update.tentative) == (revisions[-1], "")


def test_the_first_word_does_not_reach_back_before_the_speech() -> None:
    said = Hypothesis((), (), (HypothesisWord("one", 0.9, 100, 900),), step=1, is_final=True)
    transcript = Transcript(0, 1000, onset=1600)
    assert [word.start for word in transcript.update(said, 2000, is_final=False).words] == [600]
    assert [word.start for word in transcript.update(said, 2000, is_final=True).words] == [600]

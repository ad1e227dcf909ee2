"""Segments become turns; a cut ends none."""

from __future__ import annotations

from stream_protocol.messages import SpeechEnded, SpeechStarted
from stream_server.transports.turns import Cuts, Turn


def test_speech_that_goes_on_where_it_was_cut_is_told_from_a_pause() -> None:
    cuts = Cuts()
    assert not cuts.started(SpeechStarted(0, 0, 100))
    cuts.ended(SpeechEnded(0, 0, 5000))
    assert cuts.is_newest(0)
    assert cuts.started(SpeechStarted(1, 0, 5000))
    assert not cuts.is_newest(0)
    cuts.ended(SpeechEnded(1, 0, 9000))
    assert not cuts.started(SpeechStarted(2, 0, 20_000))
    assert [cuts.pop(0), cuts.pop(1), cuts.pop(2)] == [True, False, False]
    assert not cuts.pop(0)


def test_another_channel_cuts_nothing() -> None:
    cuts = Cuts()
    cuts.ended(SpeechEnded(0, 0, 5000))
    cuts.started(SpeechStarted(1, 1, 5000))
    assert not cuts.pop(0)


def test_a_turn_grows_over_segments(partial, final) -> None:
    turn = Turn()
    assert not turn.is_open
    assert turn.take_partial(partial(0, "one", " too", start=100, end=900))
    assert (turn.text, turn.stable_text, turn.finished_words) == ("one too", "one", 1)
    assert not turn.take_partial(partial(0, "one", " too", start=100, end=950))
    turn.take_final(final(0, "one two", start=100, end=1000))
    assert turn.take_partial(partial(1, "", "three", start=1000, end=1500))
    assert (turn.text, turn.stable_text) == ("one two three", "one two")
    assert [word.text for word in turn.words] == ["one", "two", "three"]
    assert (turn.start, turn.end, turn.language, turn.finished_words) == (100, 1500, "en", 2)


def test_noise_opens_no_turn(final) -> None:
    turn = Turn()
    turn.take_final(final(0, ""))
    assert not turn.is_open


def test_a_final_may_take_everything_back(partial, final) -> None:
    turn = Turn()
    turn.take_partial(partial(0, "", "hm"))
    turn.take_final(final(0, ""))
    assert turn.is_open
    assert (turn.text, turn.words) == ("", [])


def test_the_next_turn_is_empty(final) -> None:
    turn = Turn()
    turn.take_final(final(0, "one"))
    following = turn.next()
    assert (following.index, following.text, following.is_open) == (1, "", False)

"""Where audio lies on the meeting's clock, and who said what when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_client.timeline import GAP, TURN, Placement, Timeline, Utterance
from stream_protocol.messages import Ack, Final, Partial, Timings, Word

SECOND = 16_000


def partial(segment, text, start=0, end=SECOND):
    return Partial(segment, 0, 1, text, "", start, end)


def final(segment, text, start=0, end=SECOND, words=()):
    timings = Timings(1.0, 1.0, 1.0, 1)
    return Final(segment, 0, 2, text, start, end, "en", 0.5, list(words), timings)


# --- where audio lies -------------------------------------------------------------------------


def test_a_recording_lies_where_it_begins():
    placement = Placement()
    assert placement.place(0, 5 * SECOND) == 0
    assert placement.place(SECOND, 6 * SECOND) == 0
    assert placement.start(100) == 5 * SECOND + 100
    assert placement.end(2 * SECOND) == 7 * SECOND


def test_what_is_lost_on_the_way_is_missing():
    placement = Placement()
    placement.place(0, 0)
    assert placement.place(SECOND, SECOND + 320) == 320
    # With the silence in the stream the next piece follows without a gap.
    assert placement.place(2 * SECOND + 320, 2 * SECOND + 320) == 0


def test_a_mute_is_a_pause_and_not_in_the_stream():
    placement = Placement()
    placement.place(0, 0)
    assert placement.place(SECOND, 10 * SECOND) == 9 * SECOND
    assert placement.end(SECOND) == SECOND
    assert placement.start(SECOND) == 10 * SECOND
    assert placement.end(2 * SECOND) == 11 * SECOND


def test_what_overlaps_follows():
    placement = Placement()
    placement.place(0, 0)
    assert placement.place(SECOND, SECOND - 40) == 0
    assert placement.start(SECOND) == SECOND


def test_live_audio_lies_where_it_came_first():
    placement = Placement()
    assert placement.place_live(0, 1600, 5 * SECOND) == 0
    assert placement.start(0) == 5 * SECOND - 1600
    # The next piece is late by half a second: no pause; the one after it catches up.
    placement.place_live(1600, 1600, 5 * SECOND + 1600 + 8000)
    assert placement.start(0) == 5 * SECOND - 1600
    placement.place_live(3200, 8000, 5 * SECOND + 1600 + 8000)
    assert placement.start(0) == 5 * SECOND - 1600
    # It came sooner than could be if the first had not been late.
    placement.place_live(11_200, 1600, 5 * SECOND + 11_000)
    assert placement.start(0) == 5 * SECOND - 1800


def test_live_audio_after_a_mute_lies_where_it_comes():
    placement = Placement()
    placement.place_live(0, 1600, 1600)
    assert placement.place_live(1600, 1600, 20 * SECOND) > GAP
    assert placement.start(1600) == 20 * SECOND - 1600
    # A burst cannot push it back into what was said before.
    placement.place_live(3200, 60 * SECOND, 20 * SECOND)
    assert placement.start(1600) == 1600


def test_a_segment_lies_on_one_side_of_a_pause():
    placement = Placement()
    placement.place(0, 0)
    placement.place(SECOND, 10 * SECOND)
    # Its first 200 ms are what the server keeps of before the speech.
    assert placement.span(SECOND - 3200, 2 * SECOND) == (10 * SECOND, 11 * SECOND)
    assert placement.span(0, SECOND + 3200) == (0, SECOND)


def test_a_stream_without_audio_has_its_own_clock():
    assert Placement().start(7) == 7
    assert Placement().span(3, 7) == (3, 7)


@given(st.lists(st.tuples(st.integers(1, 3 * GAP), st.integers(0, 3 * GAP)), max_size=20))
def test_places_never_go_back(pieces):
    placement, position, now = Placement(), 0, 0
    for samples, wait in pieces:
        now += wait
        placement.place_live(position, samples, now)
        position += samples
    places = [placement.start(at) for at in range(0, position, 500)]
    assert places == sorted(places)


# --- who said what when -----------------------------------------------------------------------


@pytest.fixture
def timeline():
    made = Timeline()
    for name, at in (("Anna", 0), ("Ben", 10 * SECOND)):
        placement = Placement()
        placement.place(0, at)
        made.join(name, placement)
    return made


def test_streams_are_merged_by_when_they_were_spoken(timeline):
    timeline.take(1, final(0, "second"))
    timeline.take(0, final(0, "first "))
    timeline.take(0, final(1, "third", 12 * SECOND, 13 * SECOND))
    said = [(each.speaker, each.text, each.start // SECOND) for each in timeline.utterances]
    assert said == [("Anna", "first", 0), ("Ben", "second", 10), ("Anna", "third", 12)]
    assert timeline.end == 13 * SECOND


def test_speech_at_once_stays_apart(timeline):
    timeline.take(0, partial(0, "we", 10 * SECOND, 11 * SECOND))
    timeline.take(1, partial(0, "no", 0, SECOND))
    assert [(each.speaker, each.text) for each in timeline.running] == [
        ("Anna", "we"),
        ("Ben", "no"),
    ]
    timeline.take(1, final(0, "no no"))
    assert [each.speaker for each in timeline.running] == ["Anna"]


def test_words_are_on_the_clock_of_the_meeting(timeline):
    words = [Word("one", 0, 100, 0.5), Word("two", 100, SECOND, 0.5)]
    said = timeline.take(1, final(0, "one two", words=words))
    assert [(word.start, word.end) for word in said.words] == [
        (10 * SECOND, 10 * SECOND + 100),
        (10 * SECOND + 100, 11 * SECOND),
    ]


def test_what_was_nothing_is_taken_back(timeline):
    assert timeline.take(0, final(0, " ")) is None
    timeline.take(0, partial(1, "hm"))
    assert timeline.take(0, final(1, "")).text == ""
    assert timeline.running == timeline.utterances == ()


def test_a_resumed_stream_begins_its_partial_anew(timeline):
    timeline.take(0, partial(0, "one"))
    timeline.interrupt(0)
    timeline.interrupt(0)
    assert timeline.running == ()


def test_other_messages_say_nothing(timeline):
    assert timeline.take(0, Ack(1)) is None
    assert timeline.take(0, partial(0, " ")) is None


def test_somebody_who_comes_again_is_one_speaker(timeline):
    number = timeline.join("Anna", Placement())
    assert number == 2
    assert timeline.name(number) == "Anna"
    assert timeline.speakers == ("Anna", "Ben")


def test_turns_join_what_follows_closely(timeline):
    for segment, start in enumerate((0, SECOND + TURN, 4 * SECOND + TURN + TURN)):
        timeline.take(0, final(segment, f"{segment}", start, start + SECOND))
    assert [turn.text for turn in timeline.turns()] == ["0 1", "2"]
    timeline.take(1, final(0, "no", -7 * SECOND, -6 * SECOND))
    assert [turn.text for turn in timeline.turns()] == ["0 1", "no", "2"]


def test_an_utterance_from_elsewhere_can_be_added(timeline):
    said = Utterance(0, "Anna", 0, 5, 9, "yes", is_final=True)
    assert timeline.add(said) is said
    assert timeline.utterances == (said,)

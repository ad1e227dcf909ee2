"""Segments become items, whether the server or the client ends the turns."""

from __future__ import annotations

from stream_protocol.messages import (
    Ack,
    Error,
    Final,
    Flush,
    Flushed,
    Partial,
    SpeechEnded,
    SpeechStarted,
    Timings,
)
from stream_server.transports import openai_events as wire
from stream_server.transports.openai_turns import Turns, error_detail

SECOND = 16_000
FAILURE = Error("recognition_failed", "segment 0: no", None, True, False)


def final(segment: int, text: str, start: int = 0, end: int = SECOND) -> Final:
    return Final(segment, 0, 9, text, start, end, "en", 0.5, None, Timings(0, 0, 0, 1))


def partial(segment: int, stable: str) -> Partial:
    return Partial(segment, 0, 1, stable, " perhaps", 0, 1)


def names(events: list[wire.Event]) -> list[str]:
    return [str(type(event).__name__) for event in events]


def said(events: list[wire.Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, wire.Delta))


def test_with_server_vad_a_segment_is_an_item() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    turns.hear(3 * SECOND)
    events = turns.show(SpeechStarted(0, 0, SECOND))
    events += turns.show(partial(0, "one"))
    events += turns.show(SpeechEnded(0, 0, 2 * SECOND))
    events += turns.show(final(0, "one two", SECOND, 2 * SECOND))
    events += turns.show(Ack(3))
    assert names(events) == [
        "SpeechStarted", "Delta", "SpeechStopped", "Committed", "ItemAdded", "ItemDone", "Delta",
        "Completed",
    ]  # fmt: skip
    assert len({event.event_id for event in events}) == len(events)
    assert events[0].audio_start_ms == 1000
    assert events[2].audio_end_ms == 2000
    assert said(events) == events[-1].transcript == "one two"
    assert events[-1].usage.seconds == 1.0
    assert events[-1].languages == (wire.LanguageCode("en"),)
    first = events[0].item_id
    turns.show(SpeechStarted(1, 0, 4 * SECOND))
    ended = turns.show(SpeechEnded(1, 0, 5 * SECOND))
    assert ended[1].previous_item_id == first
    assert ended[1].item_id != first


def test_the_beta_names_items_otherwise() -> None:
    turns = Turns("sess_x", "beta", is_manual=False)
    turns.show(SpeechStarted(0, 0, 0))
    ended = turns.show(SpeechEnded(0, 0, 9))
    assert names(ended) == ["SpeechStopped", "Committed", "ItemCreated"]


def test_with_server_vad_a_commit_ends_the_running_segment() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    turns.hear(SECOND)
    turns.show(SpeechStarted(0, 0, 0))
    assert turns.commit() == (Flush(), [])
    assert not turns.has_audio
    assert turns.show(Flushed(SECOND)) == []


def test_a_manual_turn_has_all_segments_up_to_its_commit() -> None:
    turns = Turns("sess_x", "ga", is_manual=True)
    turns.hear(2 * SECOND)
    events = turns.show(SpeechStarted(0, 0, 100)) + turns.show(SpeechEnded(0, 0, SECOND))
    events += turns.show(final(0, "one"))
    assert names(events) == ["Delta"]
    flush, committed = turns.commit()
    assert names(committed) == ["Committed", "ItemAdded", "ItemDone"]
    item = committed[0].item_id
    # What was heard of the next turn overtakes the answer to the flush.
    turns.hear(4 * SECOND)
    assert turns.show(SpeechStarted(1, 0, SECOND + 100)) == []
    assert turns.show(SpeechStarted(2, 0, 2 * SECOND)) == []
    events += turns.show(partial(2, "three"))
    events += turns.show(final(1, "two"))
    done = turns.show(Flushed(2 * SECOND - 100, flush.id))
    assert names(done) == ["Completed"]
    assert (done[0].item_id, done[0].transcript) == (item, "one two")
    assert done[0].usage.seconds == 2.0
    assert said([each for each in events if each.item_id == item]) == "one two"
    assert said([each for each in events if each.item_id != item]) == "three"
    _, second = turns.commit()
    assert second[0].previous_item_id == item


def test_a_turn_without_speech_is_completed_empty() -> None:
    turns = Turns("sess_x", "ga", is_manual=True)
    turns.hear(SECOND)
    flush, _ = turns.commit()
    (done,) = turns.show(Flushed(SECOND, flush.id))
    assert (done.transcript, done.languages) == ("", ())


def test_what_is_cleared_is_never_said() -> None:
    for is_manual in (True, False):
        turns = Turns("sess_x", "ga", is_manual=is_manual)
        assert (turns.clear()[0], names(turns.clear()[1])) == (None, ["Cleared"])
        turns.hear(SECOND)
        turns.show(SpeechStarted(0, 0, 0))
        flush, events = turns.clear()
        assert flush is not None
        assert names(events) == ["Cleared"]
        events = turns.show(SpeechEnded(0, 0, 9))
        events += turns.show(SpeechStarted(1, 0, 9000)) + turns.show(final(0, "one"))
        events += turns.show(final(1, "two")) + turns.show(Flushed(SECOND, flush.id))
        assert names(events) in ([], ["SpeechStarted", "SpeechStopped"])
        assert not said(events)
        turns.hear(2 * SECOND)
        turns.show(SpeechStarted(2, 0, SECOND))
        assert said(turns.show(final(2, "three"))) == "three"


def test_speech_begun_before_a_clear_and_heard_after_it_is_not_announced() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    turns.hear(SECOND)
    flush, _ = turns.clear()
    assert flush is not None
    assert turns.show(SpeechStarted(0, 0, 100)) == []


def test_a_failed_item_is_told() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    turns.show(SpeechStarted(0, 0, 0))
    assert turns.show(FAILURE) == []
    (failed,) = turns.show(final(0, ""))
    assert isinstance(failed, wire.Failed)
    assert (failed.error.code, failed.error.type) == ("recognition_failed", "server_error")
    turns.show(SpeechStarted(1, 0, 0))
    assert names(turns.show(final(1, ""))) == ["Completed"]


def test_a_fatal_error_is_an_event() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    (event,) = turns.show(Error("limit", "enough", "$.x", False, True))
    assert event.error == error_detail(Error("limit", "enough", "$.x", False, True))
    assert event.error.type == "invalid_request_error"


def test_what_a_new_connection_may_cure_is_left_to_the_close_code() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    assert turns.show(Error("timeout", "silence", None, True, True)) == []


def test_switching_to_manual_keeps_what_runs() -> None:
    turns = Turns("sess_x", "ga", is_manual=False)
    turns.hear(SECOND)
    turns.show(SpeechStarted(0, 0, 0))
    turns.is_manual = True
    events = turns.show(SpeechEnded(0, 0, 9)) + turns.show(final(0, "one"))
    assert names(events)[-1] == "Completed"
    assert turns.show(SpeechStarted(1, 0, SECOND)) == []

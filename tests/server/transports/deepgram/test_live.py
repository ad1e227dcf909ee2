"""Deepgram's live messages and a session's, one at a time."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from starlette.datastructures import QueryParams

from stream_protocol import messages as native
from stream_server.errors import BadAudio
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.deepgram.live import LiveDialect
from stream_server.transports.deepgram.query import read_live
from stream_server.transports.dialect import Call

SECOND = 16_000
RAW = "encoding=linear16&sample_rate=16000"


class Line(LiveDialect):
    """A dialect whose replies are read as its client does."""

    def __init__(self, query: str) -> None:
        super().__init__(read_live(QueryParams(query), FAKE_INFO), Call(), FAKE_INFO)

    def says(self, kind: str, **fields: object) -> list[Any]:
        heard = self.hear(json.dumps({"type": kind, **fields}))
        return [*heard.session, *plain(heard.replies)]

    def told(self, *messages: native.ServerMessage) -> list[dict[str, Any]]:
        return [each for message in messages for each in plain(self.tell(message))]

    def speaks(self, segment: int, start: int, end: int, channel: int = 0) -> list[dict[str, Any]]:
        return self.told(
            native.SpeechStarted(segment, channel, start),
            native.SpeechEnded(segment, channel, end),
        )


def plain(replies: Any) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(reply)) for reply in replies]


def text(result: dict[str, Any]) -> str:
    return str(result["channel"]["alternatives"][0]["transcript"])


def flags(results: list[dict[str, Any]]) -> list[tuple[bool, bool, bool]]:
    return [(each["is_final"], each["speech_final"], each["from_finalize"]) for each in results]


@pytest.fixture
def line() -> Line:
    line = Line(f"{RAW}&interim_results=true&punctuate=true&vad_events=true&utterance_end_ms=1000")
    line.open()
    return line


def test_a_session_is_opened_as_the_query_says() -> None:
    (start,) = Line(f"{RAW}&channels=2&multichannel=true&language=en-US").open().session
    assert start == native.Start(
        channels=2, channel_mode="split", language="en", partial_interval_ms=0, words=True
    )


def test_a_container_opens_it_with_its_first_bytes() -> None:
    line = Line("interim_results=true")
    assert line.open().session == []
    assert line.says("KeepAlive") == []
    assert [each["from_finalize"] for each in line.says("Finalize")] == [True]
    start, head = line.hear(b"OggS" + bytes(20)).session
    assert (start.encoding, start.partial_interval_ms) == ("ogg", 500)  # type: ignore[union-attr]
    assert head == b"OggS" + bytes(20)
    with pytest.raises(BadAudio):
        Line("").hear(b"nothing of the kind")


def test_control_messages(line: Line) -> None:
    assert line.says("KeepAlive") == [native.Configure()]
    assert line.says("Finalize", channel=0) == [native.Flush()]
    assert line.says("Weather") == []
    assert line.says("Configure", keyterms=["a"])[0]["keyterms"] == ["a"]
    heard = line.hear("junk")
    assert not heard.session
    assert plain(heard.replies)[0]["variant"] == "SchemaError"
    assert line.says("CloseStream") == [native.Stop()]
    assert line.says("Finalize") == []
    assert line.hear(bytes(10)).session == ()


def test_an_empty_message_of_audio_ends_the_stream(line: Line) -> None:
    assert line.hear(b"").session == [native.Stop()]


def test_windows_follow_one_another(line: Line, partial, final) -> None:
    assert line.told(native.SpeechStarted(0, 0, 1600)) == [
        {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.1}
    ]
    (interim,) = line.told(partial(0, "One,", " too", start=800, end=SECOND))
    line.told(native.SpeechEnded(0, 0, SECOND))
    (first,) = line.told(final(0, "One, two.", start=800, end=SECOND))
    line.speaks(1, 3 * SECOND, 4 * SECOND)
    (second,) = line.told(final(1, "Three.", start=3 * SECOND - 800, end=4 * SECOND))
    assert (text(interim), text(first), text(second)) == ("One, too", "One, two.", "Three.")
    windows = [(each["start"], each["duration"]) for each in (interim, first, second)]
    assert windows == [(0.0, 1.0), (0.0, 1.0), (1.0, 3.0)]
    assert flags([interim, first, second]) == [
        (False, False, False),
        (True, True, False),
        (True, True, False),
    ]
    words = first["channel"]["alternatives"][0]["words"]
    assert [(w["word"], w["punctuated_word"]) for w in words] == [("one", "One,"), ("two", "two.")]
    assert first["channel"]["alternatives"][0]["languages"] == ["en"]


def test_without_punctuation_words_are_bare(final) -> None:
    line = Line(RAW)
    line.open()
    line.speaks(0, 0, SECOND)
    (result,) = line.told(final(0, "One, two."))
    assert text(result) == "one two"
    assert "punctuated_word" not in result["channel"]["alternatives"][0]["words"][0]


def test_speech_that_was_cut_is_not_over(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.speaks(1, SECOND, 2 * SECOND)
    results = line.told(final(0, "one", end=SECOND), final(1, "two", start=SECOND, end=2 * SECOND))
    assert [each["speech_final"] for each in results] == [False, True]


def test_without_endpointing_speech_is_over_only_by_finalize(final) -> None:
    line = Line(f"{RAW}&endpointing=false")
    line.open()
    line.speaks(0, 0, SECOND)
    assert flags(line.told(final(0, "one"))) == [(True, False, False)]
    line.says("Finalize")
    assert flags(line.told(native.Flushed(SECOND))) == [(True, True, True)]


def test_the_interims_of_a_later_segment_wait_for_the_final_before(line, partial, final) -> None:
    line.speaks(0, 0, SECOND)
    line.told(native.SpeechStarted(1, 0, 2 * SECOND))
    later = partial(1, "", "two", start=2 * SECOND, end=3 * SECOND)
    assert line.told(later) == []
    line.told(final(0, "one"))
    assert [text(each) for each in line.told(later)] == ["two"]


def test_finalize_marks_the_last_final(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.speaks(1, 2 * SECOND, 3 * SECOND)
    line.says("Finalize")
    assert line.told(final(0, "one")) == []
    (first,) = line.told(final(1, "two", start=2 * SECOND, end=3 * SECOND))
    (last,) = line.told(native.Ack(3 * SECOND), native.Flushed(3 * SECOND))
    assert (text(first), text(last)) == ("one", "two")
    assert flags([first, last]) == [(True, True, False), (True, True, True)]


def test_finalize_with_nothing_to_say_is_answered_all_the_same(line: Line) -> None:
    line.told(native.Ack(SECOND))
    for _ in range(2):
        line.says("Finalize")
        (answer,) = line.told(native.Flushed(SECOND))
        assert (text(answer), answer["from_finalize"], answer["is_final"]) == ("", True, True)
        assert not answer["speech_final"]


def test_a_held_final_is_not_lost_when_speech_goes_on(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.says("Finalize")
    line.told(final(0, "one"))
    shown = line.told(native.SpeechStarted(1, 0, SECOND))
    assert [each["type"] for each in shown] == ["Results", "SpeechStarted"]
    assert text(shown[0]) == "one"
    (answer,) = line.told(native.Flushed(SECOND))
    assert (text(answer), answer["from_finalize"]) == ("", True)


def test_finalize_is_answered_on_each_channel(final) -> None:
    line = Line(f"{RAW}&channels=2&multichannel=true")
    line.open()
    line.speaks(0, 0, SECOND, channel=1)
    line.says("Finalize")
    answers = line.told(final(0, "one", channel=1), native.Flushed(SECOND))
    assert [(each["channel_index"], text(each)) for each in answers] == [
        ([0, 2], ""),
        ([1, 2], "one"),
    ]


def test_an_utterance_ends_once_nothing_was_said_for_long_enough(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.told(final(0, "one"))
    assert line.told(native.Ack(SECOND + 15_000)) == []
    assert line.told(native.Ack(2 * SECOND)) == [
        {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 1.0}
    ]
    assert line.told(native.Ack(9 * SECOND)) == []


def test_an_utterance_that_goes_on_does_not_end(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.told(final(0, "one"), native.SpeechStarted(1, 0, SECOND + 8000))
    assert line.told(native.Ack(3 * SECOND)) == []


def test_speech_after_a_long_pause_ends_the_utterance_before(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.told(final(0, "one"))
    shown = line.told(native.SpeechStarted(1, 0, 3 * SECOND))
    assert [each["type"] for each in shown] == ["UtteranceEnd", "SpeechStarted"]


def test_a_final_that_comes_late_still_ends_its_utterance(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.told(native.SpeechStarted(1, 0, 3 * SECOND), native.Ack(4 * SECOND))
    shown = line.told(final(0, "one"))
    assert [each["type"] for each in shown] == ["Results", "UtteranceEnd"]
    assert shown[1]["last_word_end"] == 1.0


def test_an_utterance_that_finalize_ends_is_reported_after_its_answer(line: Line, final) -> None:
    line.speaks(0, 0, SECOND)
    line.says("Finalize")
    line.told(native.Ack(3 * SECOND), final(0, "one"))
    shown = line.told(native.Flushed(3 * SECOND))
    assert [each["type"] for each in shown] == ["Results", "UtteranceEnd"]


def test_the_end(line: Line) -> None:
    line.hear(b"\1\2")
    line.hear(b"\3\4")
    (metadata,) = line.told(native.Done(SECOND, 1))
    assert metadata["type"] == "Metadata"
    assert metadata["sha256"] == hashlib.sha256(b"\1\2\3\4").hexdigest()
    assert (metadata["duration"], metadata["channels"]) == (1.0, 1)
    assert line.closing(1000, "done") == (1000, "")


@pytest.mark.parametrize(
    ("code", "reason", "close", "begins"),
    [
        (1007, "bad_audio", 1008, "DATA-0000"),
        (1013, "timeout", 1011, "NET-0001"),
        (1012, "draining", 1012, "draining"),
    ],
)
def test_closings(line: Line, code: int, reason: str, close: int, begins: str) -> None:
    found = line.closing(code, reason)
    assert found[0] == close
    assert found[1].startswith(begins)


def test_only_fatal_errors_are_told(line: Line) -> None:
    assert line.told(native.Error("recognition_failed", "m", None, True, False)) == []
    (error,) = line.told(native.Error("bad_audio", "m", None, False, True))
    assert error == {
        "type": "Error",
        "variant": "bad_audio",
        "description": "m",
        "message": "m",
    }


def test_what_its_clients_have_no_word_for_is_not_told(line: Line) -> None:
    limits = native.Limits(1, 1, 1, 1)
    assert line.told(native.Ready("s", "t", "m", [], limits), native.Notice("silence", "m")) == []

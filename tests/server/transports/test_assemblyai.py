"""AssemblyAI's messages and a session's, one at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from stream_protocol import messages as native
from stream_protocol.errors import RemoteProtocolError
from stream_server.errors import InvalidField, Overloaded, Unauthorized
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.assemblyai import AssemblyAiApi, AssemblyAiDialect, read_query
from stream_server.transports.dialect import Call
from stream_server.transports.opening import Announced, AudioFormat

SECOND = 16_000


class Line(AssemblyAiDialect):
    """A dialect whose replies are read as its client does."""

    def __init__(self, query: str = "") -> None:
        clock = itertools.count(100.0, 7.0)
        call = Call(clock=lambda: next(clock))
        super().__init__(read_query(QueryParams(query), FAKE_INFO), call)
        self.opened = self.open()

    def says(self, kind: str, **fields: object) -> Any:
        return self.hear(json.dumps({"type": kind, **fields})).session

    def told(self, *messages: native.ServerMessage) -> list[dict[str, Any]]:
        return [each for message in messages for each in plain(self.tell(message))]

    def speaks(self, segment: int, start: int, end: int) -> list[dict[str, Any]]:
        return self.told(
            native.SpeechStarted(segment, 0, start), native.SpeechEnded(segment, 0, end)
        )


def plain(replies: Any) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(reply)) for reply in replies]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample_rate=8000", Announced(AudioFormat("pcm_s16le", 8000))),
        ("encoding=pcm_mulaw&sample_rate=8000", Announced(AudioFormat("mulaw", 8000))),
        ("encoding=opus", Announced(None, is_packets=True)),
        ("encoding=ogg_opus", Announced(AudioFormat("ogg"))),
    ],
)
def test_encodings(text: str, expected: Announced) -> None:
    assert read_query(QueryParams(text), FAKE_INFO).audio == expected


def test_parameters_as_python_sends_them() -> None:
    text = (
        "sample_rate=16000&format_turns=True&keyterms_prompt=%5B%22a%22%5D&speaker_labels=False"
        "&language_codes=%5B%22en-US%22%5D&max_turn_silence=2400&min_turn_silence=160"
    )
    read = read_query(QueryParams(text), FAKE_INFO)
    assert (read.language, read.settings.is_formatted) == ("en", True)
    assert read.settings.endpointing.silence_ms == 300


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("encoding=aac", "encoding"),
        ("sample_rate=44", "sample_rate"),
        ("format_turns=perhaps", "format_turns"),
        ("min_turn_silence=soon", "min_turn_silence"),
        ("max_turn_silence=-1", "max_turn_silence"),
        ("language_code=tlh", "language_codes"),
        ("language_codes=en", "language_codes"),
    ],
)
def test_wrong_values_are_refused_by_name(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_query(QueryParams(text), FAKE_INFO)
    assert caught.value.field == field


NAMES = ["encoding", "sample_rate", "language_codes", "min_turn_silence", "format_turns"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=9)))
def test_any_value_is_read_or_refused(values: dict[str, str]) -> None:
    with contextlib.suppress(InvalidField):
        read = read_query(QueryParams(values), FAKE_INFO)
        assert 300 <= read.settings.endpointing.silence_ms <= 5000


def test_it_begins() -> None:
    line = Line()
    assert line.opened.session == [native.Start(words=True)]
    (begin,) = plain(line.opened.replies)
    assert begin["type"] == "Begin"
    assert begin["id"] == line._call.request_id


def test_what_is_stable_is_the_transcript(partial) -> None:
    (turn,) = Line().told(partial(0, "One", " two"))
    assert (turn["transcript"], turn["end_of_turn"], turn["turn_order"]) == ("one", False, 0)
    assert [(w["text"], w["word_is_final"]) for w in turn["words"]] == [
        ("one", True),
        ("two", False),
    ]


@pytest.mark.parametrize("is_formatted", [True, False])
def test_a_turn_ends(final, is_formatted: bool) -> None:
    line = Line(f"format_turns={is_formatted}")
    assert line.speaks(0, 1600, SECOND) == [{"type": "SpeechStarted", "timestamp": 100}]
    ends = line.told(final(0, "One, two."))
    assert [each["transcript"] for each in ends] == ["one two", "One, two."][: 1 + is_formatted]
    assert [each["turn_is_formatted"] for each in ends] == [False, True][: 1 + is_formatted]
    assert all(each["end_of_turn"] and each["language_code"] == "en" for each in ends)
    assert [word["end"] for word in ends[0]["words"]] == [500, 1000]
    line.speaks(1, 2 * SECOND, 3 * SECOND)
    assert line.told(final(1, "three"))[0]["turn_order"] == 1


def test_a_cut_ends_no_turn_and_noise_is_none(final) -> None:
    line = Line()
    line.speaks(0, 0, SECOND)
    assert line.told(final(0, "")) == []
    line.speaks(1, 2 * SECOND, 3 * SECOND)
    line.speaks(2, 3 * SECOND, 4 * SECOND)
    (going,) = line.told(final(1, "one"))
    (over,) = line.told(final(2, "two"))
    assert (going["end_of_turn"], over["end_of_turn"]) == (False, True)
    assert (going["transcript"], over["transcript"]) == ("one", "one two")


def test_a_turn_ends_by_force(final) -> None:
    line = Line()
    line.speaks(0, 0, SECOND)
    assert line.says("ForceEndpoint") == [native.Flush()]
    assert [each["end_of_turn"] for each in line.told(final(0, "one"))] == [False]
    assert [each["end_of_turn"] for each in line.told(native.Flushed(SECOND))] == [True]
    line.says("ForceEndpoint")
    assert line.told(native.Flushed(SECOND)) == []


@pytest.mark.parametrize("is_late", [True, False])
def test_turns_before_one_that_ends_by_force_stay_apart(final, is_late: bool) -> None:
    """A client that is ahead of the recogniser: its wish is there before the finals are."""
    line = Line()
    line.speaks(0, 0, SECOND)
    line.says("ForceEndpoint")
    if is_late:  # its final comes when the next turn is heard already
        line.speaks(1, 2 * SECOND, 3 * SECOND)
        told = line.told(final(0, "one"))
    else:
        told = [*line.told(final(0, "one")), *line.speaks(1, 2 * SECOND, 3 * SECOND)]
    told += [*line.told(final(1, "two")), *line.told(native.Flushed(3 * SECOND))]
    ends = [each["transcript"] for each in told if each.get("end_of_turn")]
    assert ends == ["one", "two"]


def test_the_end(partial) -> None:
    line = Line()
    line.told(partial(0, "", "one"))
    assert line.says("Terminate") == [native.Stop()]
    assert line.says("ForceEndpoint") == ()
    turn, end = line.told(native.Done(3 * SECOND, 1))
    assert turn["end_of_turn"]
    assert end == {
        "type": "Termination",
        "audio_duration_seconds": 3,
        "session_duration_seconds": 7,
    }
    assert line.closing(1000, "done") == (1000, "")


def test_other_messages() -> None:
    line = Line()
    (change,) = line.says("UpdateConfiguration", min_turn_silence=900, format_turns=True)
    assert change.endpointing.silence_ms == 900
    (change,) = line.says("UpdateConfiguration", max_turn_silence=10**12)
    assert change.endpointing.silence_ms == 900
    assert line.says("KeepAlive") == [native.Configure()]
    assert line.says("Weather") == ()
    assert line.hear(b"").session == ()
    assert line.hear(b"\0\0").session == [b"\0\0"]
    with pytest.raises(RemoteProtocolError):
        line.hear("junk")


@pytest.mark.parametrize(
    ("reason", "code"),
    [("bad_audio", 3006), ("timeout", 4031), ("bad_message", 4100), ("invalid_field", 4101)],
)
def test_errors_and_closings(reason: Any, code: int) -> None:
    line = Line()
    (error,) = line.told(native.Error(reason, "m", None, False, True))
    assert error == {"type": "Error", "error_code": code, "error": "m"}
    assert line.closing(1007, reason) == (code, reason)
    assert line.told(native.Error(reason, "m", None, False, False)) == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unauthorized("m"), 401, 4001),
        (InvalidField("m", field="f"), 400, 4101),
        (Overloaded("m"), 503, 1013),
    ],
)
def test_refusals(error: Exception, status: int, code: int) -> None:
    answer = AssemblyAiApi().refuse(error, Call())
    assert (answer.status_code, json.loads(answer.body)["error_code"]) == (status, code)

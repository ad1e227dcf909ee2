"""Speechmatics' messages and a session's, one at a time."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from stream_protocol import messages as native
from stream_protocol.errors import RemoteProtocolError
from stream_server.errors import BadAudio, InvalidField, Unauthorized
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.dialect import Call
from stream_server.transports.speechmatics import SpeechmaticsApi, SpeechmaticsDialect

SECOND = 16_000
RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16_000}


class Line(SpeechmaticsDialect):
    """A dialect whose replies are read as its client does."""

    def __init__(self, audio: object = RAW, **config: object) -> None:
        super().__init__(Call(), FAKE_INFO)
        assert self.open().session == ()
        config = {"language": "en", **config}
        self.started = self.says(
            "StartRecognition", audio_format=audio, transcription_config=config
        )

    def says(self, kind: str, **fields: object) -> Any:
        return self.hear(json.dumps({"message": kind, **fields}))

    def told(self, *messages: native.ServerMessage) -> list[dict[str, Any]]:
        return [each for message in messages for each in plain(self.tell(message))]

    def speaks(self, segment: int, start: int, end: int) -> None:
        assert not self.told(
            native.SpeechStarted(segment, 0, start), native.SpeechEnded(segment, 0, end)
        )


def plain(replies: Any) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(reply)) for reply in replies]


def kinds(shown: list[dict[str, Any]]) -> list[str]:
    return [each["message"] for each in shown]


def test_recognition_starts() -> None:
    line = Line(enable_partials=True)
    assert line.started.session == [native.Start(language="en", words=True)]
    (started,) = plain(line.started.replies)
    assert (started["message"], started["id"]) == ("RecognitionStarted", line._call.request_id)
    (start,) = Line().started.session
    assert start.partial_interval_ms == 0


def test_a_file_starts_the_session_with_its_first_bytes() -> None:
    line = Line({"type": "file"})
    assert line.started.session == []
    heard = line.hear(b"OggS" + bytes(20))
    assert [type(each) for each in heard.session] == [native.Start, bytes]
    with pytest.raises(BadAudio):
        Line({"type": "file"}).hear(bytes(100))


def test_every_message_of_audio_is_counted() -> None:
    line = Line()
    numbers = [plain(line.hear(data).replies)[0]["seq_no"] for data in (b"\0\0", b"", b"\0\0")]
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"audio_format": {"type": "raw", "encoding": "flac"}}, "audio_format"),
        ({"audio_format": RAW | {"sample_rate": 11_025}}, "audio_format.sample_rate"),
        ({"transcription_config": {"language": "tlh"}}, "transcription_config.language"),
        (
            {"transcription_config": {"diarization": "channel"}},
            "transcription_config.diarization",
        ),
        (
            {
                "transcription_config": {
                    "conversation_config": {"end_of_utterance_silence_trigger": 3}
                }
            },
            "conversation_config.end_of_utterance_silence_trigger",
        ),
        ({"translation_config": {"target_languages": ["de"]}}, "translation_config"),
        ({"audio_events_config": {}}, "audio_events_config"),
    ],
)
def test_what_is_not_to_be_had_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        SpeechmaticsDialect(Call(), FAKE_INFO).hear(
            json.dumps({"message": "StartRecognition", **fields})
        )
    assert caught.value.field == field


def test_the_order_of_messages_is_kept() -> None:
    for frame in (b"\0\0", '{"message":"EndOfStream"}'):
        with pytest.raises(RemoteProtocolError):
            SpeechmaticsDialect(Call(), FAKE_INFO).hear(frame)
    with pytest.raises(RemoteProtocolError):
        Line().says("StartRecognition")
    with pytest.raises(RemoteProtocolError):
        Line().hear("junk")


def test_transcripts_have_punctuation_of_their_own(partial, final) -> None:
    line = Line(enable_partials=True)
    (going,) = line.told(partial(0, "One,", " tw", end=8000))
    assert going["message"] == "AddPartialTranscript"
    assert going["metadata"] == {"transcript": "One, tw ", "start_time": 0.0, "end_time": 0.5}
    (over,) = line.told(final(0, "One, two."))
    assert (over["message"], over["metadata"]["transcript"]) == ("AddTranscript", "One, two. ")
    shown = [(each["type"], each["alternatives"][0]["content"]) for each in over["results"]]
    assert shown == [
        ("word", "One"),
        ("punctuation", ","),
        ("word", "two"),
        ("punctuation", "."),
    ]
    comma, dot = over["results"][1], over["results"][3]
    assert (comma["attaches_to"], comma.get("is_eos")) == ("previous", None)
    assert dot["is_eos"]
    assert over["results"][0]["alternatives"][0]["language"] == "en"


def test_utterances_end_for_those_who_asked(final) -> None:
    silent = Line()
    silent.speaks(0, 0, SECOND)
    assert kinds(silent.told(final(0, "one"))) == ["AddTranscript"]
    line = Line(conversation_config={"end_of_utterance_silence_trigger": 0.8})
    assert line.started.session[0].endpointing.silence_ms == 800
    line.speaks(0, 0, SECOND)
    line.speaks(1, SECOND, 2 * SECOND)
    assert kinds(line.told(final(0, "one"))) == ["AddTranscript"]
    ended = line.told(final(1, "two", start=SECOND, end=2 * SECOND))
    assert kinds(ended) == ["AddTranscript", "EndOfUtterance"]
    assert ended[1]["metadata"] == {"start_time": 2.0, "end_time": 2.0}


def test_an_utterance_ends_by_force(final) -> None:
    line = Line(conversation_config={"end_of_utterance_silence_trigger": 0.5})
    assert line.says("ForceEndOfUtterance", timestamp=1.0).session == [native.Flush()]
    line.speaks(0, 0, SECOND)
    assert kinds(line.told(final(0, "one"), native.Flushed(SECOND))) == [
        "AddTranscript",
        "EndOfUtterance",
    ]


@pytest.mark.parametrize("is_late", [True, False])
def test_utterances_before_one_that_ends_by_force_have_their_ends(final, is_late: bool) -> None:
    """A client that is ahead of the recogniser: its wish is there before the finals are."""
    line = Line(conversation_config={"end_of_utterance_silence_trigger": 0.5})
    line.speaks(0, 0, SECOND)
    line.says("ForceEndOfUtterance", timestamp=1.0)
    one = final(0, "one")
    next_one = [native.SpeechStarted(1, 0, 2 * SECOND), native.SpeechEnded(1, 0, 3 * SECOND)]
    # The first final may come when the next utterance is heard already.
    told = line.told(*next_one, one) if is_late else line.told(one, *next_one)
    told += line.told(final(1, "two", end=3 * SECOND), native.Flushed(3 * SECOND))
    assert kinds(told) == ["AddTranscript", "EndOfUtterance"] * 2
    assert [each["metadata"]["end_time"] for each in told[1::2]] == [1.0, 3.0]


def test_settings_change_where_they_are_named() -> None:
    line = Line(conversation_config={"end_of_utterance_silence_trigger": 0.5})
    (change,) = line.says(
        "SetRecognitionConfig", transcription_config={"enable_partials": True}
    ).session
    assert change == native.Configure(native.Endpointing(silence_ms=500), "en", 500)


def test_what_there_is_not_is_warned_of() -> None:
    for kind in ("GetSpeakers", "AddChannelAudio"):
        (warning,) = plain(Line().says(kind).replies)
        assert warning["message"] == "Warning"
        assert kind in warning["reason"]
    assert Line().says("Weather").replies == ()


def test_the_end() -> None:
    line = Line()
    assert line.says("EndOfStream", last_seq_no=0).session == [native.Stop()]
    assert line.hear(b"\0\0").session == ()
    assert line.told(native.Done(SECOND, 0)) == [{"message": "EndOfTranscript"}]
    assert line.closing(1000, "done") == (1000, "")


@pytest.mark.parametrize(
    ("code", "kind", "close"),
    [
        ("bad_audio", "data_error", 1003),
        ("invalid_field", "invalid_config", 1008),
        ("wrong_state", "protocol_error", 1002),
        ("internal", "unknown_error", 1011),
    ],
)
def test_errors_and_closings(code: Any, kind: str, close: int) -> None:
    line = Line()
    (error,) = line.told(native.Error(code, "m", None, False, True))
    assert error == {"message": "Error", "type": kind, "reason": "m"}
    assert line.closing(1007, code) == (close, kind)
    assert line.told(native.Error(code, "m", None, False, False)) == []


def test_refusals() -> None:
    answer = SpeechmaticsApi().refuse(Unauthorized("m"), Call())
    assert answer.status_code == 401
    assert json.loads(answer.body) == {
        "message": "Error",
        "type": "not_authorised",
        "reason": "m",
    }

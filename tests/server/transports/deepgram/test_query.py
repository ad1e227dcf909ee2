"""Parameters of a URL: what is honoured, what is refused, what is passed over."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from stream_server.errors import InvalidField
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.deepgram import query
from stream_server.transports.opening import Announced, AudioFormat

RAW = "encoding=linear16&sample_rate=8000"


def live(text: str) -> query.LiveQuery:
    return query.read_live(QueryParams(text), FAKE_INFO)


def test_what_livekit_and_pipecat_send_is_taken() -> None:
    livekit = (
        f"{RAW}&model=nova-3&punctuate=true&smart_format=false&no_delay=true&interim_results=true"
        "&vad_events=true&channels=1&endpointing=25&filler_words=true&profanity_filter=false"
        "&numerals=false&mip_opt_out=false&language=en-US&keyterm=a&keyterm=b&keywords=a:1.5"
    )
    read = live(livekit)
    assert read.audio == Announced(AudioFormat("pcm_s16le", 8000, 1))
    assert (read.language, read.has_interims, read.has_vad_events) == ("en", True, True)
    assert (read.is_punctuated, read.is_multichannel, read.is_endpointed) == (True, False, True)
    assert read.endpointing.silence_ms == 300


def test_what_is_left_out_has_its_default() -> None:
    read = live("")
    assert read.audio == Announced(None)
    assert (read.language, read.has_interims, read.utterance_end_ms) == (None, False, 0)
    assert read.endpointing.silence_ms == 500


@pytest.mark.parametrize(
    ("value", "silence", "is_endpointed"),
    [("false", 500, False), ("True", 500, True), ("10", 300, True), ("900", 900, True)]
    + [("99999", 5000, True)],
)
def test_endpointing(value: str, silence: int, is_endpointed: bool) -> None:
    read = live(f"endpointing={value}")
    assert (read.endpointing.silence_ms, read.is_endpointed) == (silence, is_endpointed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoding=ogg-opus&sample_rate=48000", Announced(AudioFormat("ogg"))),
        ("encoding=opus&channels=2", Announced(None, is_packets=True, channels=2)),
        (
            "encoding=MULAW&sample_rate=8000&channels=2",
            Announced(AudioFormat("mulaw", 8000, 2)),
        ),
        ("encoding=linear32&sample_rate=48000", Announced(AudioFormat("pcm_f32le", 48_000))),
    ],
)
def test_encodings(text: str, expected: Announced) -> None:
    assert query.read_audio(QueryParams(text)) == expected


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("encoding=flac&sample_rate=16000", "encoding"),
        ("encoding=linear16", "sample_rate"),
        ("encoding=linear16&sample_rate=11025", "sample_rate"),
        (f"{RAW}&channels=3", "channels"),
        ("interim_results=maybe", "interim_results"),
        ("endpointing=soon", "endpointing"),
        ("utterance_end_ms=-1", "utterance_end_ms"),
        ("language=tlh", "language"),
    ],
)
def test_wrong_values_are_refused_by_name(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        live(text)
    assert caught.value.field == field


@given(st.dictionaries(st.sampled_from(["endpointing", "channels", "language"]), st.text()))
def test_any_value_is_read_or_refused(values: dict[str, str]) -> None:
    with contextlib.suppress(InvalidField):
        read = query.read_live(QueryParams(values), FAKE_INFO)
        assert 300 <= read.endpointing.silence_ms <= 5000


def thresholds(text: str) -> query.Thresholds:
    return query.read_thresholds(QueryParams(text))


def test_thresholds_stand_for_lengths_of_silence() -> None:
    assert (thresholds("").silence_ms, thresholds("").eager_ms) == (500, None)
    eager = thresholds("eot_threshold=0.8&eager_eot_threshold=0.5")
    assert (eager.silence_ms, eager.eager_ms, eager.endpointing.silence_ms) == (600, 300, 300)
    late = thresholds("eot_threshold=0.9&eot_timeout_ms=500")
    assert (late.silence_ms, late.is_timeout) == (500, True)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("eot_threshold=0.1", "eot_threshold"),
        ("eot_threshold=nan", "eot_threshold"),
        ("eot_threshold=high", "eot_threshold"),
        ("eot_timeout_ms=1", "eot_timeout_ms"),
        ("eager_eot_threshold=0.9", "eager_eot_threshold"),
        ("eager_eot_threshold=0.1", "eager_eot_threshold"),
    ],
)
def test_wrong_thresholds_are_refused(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        thresholds(text)
    assert caught.value.field == field


def test_one_hint_is_a_language_and_several_are_a_choice() -> None:
    assert query.first_language(["en-GB"], FAKE_INFO) == "en"
    assert query.first_language(["en", "de"], FAKE_INFO) is None
    assert query.first_language([], FAKE_INFO) is None

"""What clients set a realtime session to, in both dialects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stream_protocol.messages import Start
from stream_server.errors import InvalidField
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.session.validation import validate_configure, validate_start
from stream_server.transports import openai_events as wire
from stream_server.transports.openai_config import Settings, beta_session, ga_session, update


def fields(**session: Any) -> wire.SessionFields:
    return msgspec.convert(session, wire.SessionFields)


def ga(**inner: Any) -> wire.SessionFields:
    return fields(type="transcription", audio={"input": inner})


def test_the_default_is_openais() -> None:
    assert Settings().start() == Start(encoding="pcm_s16le", sample_rate=24000)
    assert Settings().turn is not None


@pytest.mark.parametrize(
    ("asked", "encoding", "rate"),
    [
        (ga(format={"type": "audio/pcm", "rate": 24000}), "pcm_s16le", 24000),
        (ga(format={"type": "audio/pcm"}), "pcm_s16le", 24000),
        (ga(format={"type": "audio/pcm", "rate": 16000}), "pcm_s16le", 16000),
        (ga(format={"type": "audio/pcmu"}), "mulaw", 8000),
        (ga(format={"type": "audio/pcma"}), "alaw", 8000),
        (fields(input_audio_format="pcm16"), "pcm_s16le", 24000),
        (fields(input_audio_format="g711_ulaw"), "mulaw", 8000),
        (fields(input_audio_format="g711_alaw"), "alaw", 8000),
    ],
)
def test_formats(asked: wire.SessionFields, encoding: str, rate: int) -> None:
    settings = update(Settings(), asked, FAKE_INFO)
    start = settings.start()
    assert (start.encoding, start.sample_rate) == (encoding, rate)
    validate_start(start, FAKE_INFO)
    width = 2 if encoding == "pcm_s16le" else 1
    assert settings.samples(rate * width) == 16_000


@pytest.mark.parametrize(
    ("turn", "silence"),
    [
        ({"type": "server_vad", "silence_duration_ms": 350, "threshold": 0.3}, 350),
        ({"type": "server_vad"}, 500),
        ({"type": "server_vad", "silence_duration_ms": 0}, 100),
        ({"type": "server_vad", "silence_duration_ms": 10**12}, 5000),
        ({"type": "semantic_vad", "eagerness": "high"}, 400),
        ({"type": "semantic_vad"}, 800),
        (None, 500),
    ],
)
def test_turns(turn: object, silence: int) -> None:
    for asked in (ga(turn_detection=turn), fields(turn_detection=turn)):
        settings = update(Settings(), asked, FAKE_INFO)
        assert (settings.turn is None) == (turn is None)
        assert settings.start().endpointing.silence_ms == silence
        validate_configure(settings.configure(), FAKE_INFO)


def test_what_is_left_out_stays() -> None:
    first = ga(
        turn_detection=None, format={"type": "audio/pcmu"}, transcription={"language": "en-US"}
    )
    settings = update(Settings(), first, FAKE_INFO)
    assert update(settings, fields(), FAKE_INFO) == settings
    assert update(settings, ga(), FAKE_INFO) == settings
    assert update(settings, fields(audio=None), FAKE_INFO) == settings
    named = update(settings, ga(transcription={"model": "whisper-1"}), FAKE_INFO)
    assert (named.language, named.model) == ("en", "whisper-1")


@pytest.mark.parametrize(
    ("transcription", "language"),
    [
        ({"language": "en"}, "en"),
        ({"language": "en_GB"}, "en"),
        ({"language": ""}, None),
        ({"language": None}, None),
        ({"languages": ["en"]}, "en"),
        ({"languages": ["en", "de"]}, None),
        (None, None),
    ],
)
def test_languages(transcription: object, language: str | None) -> None:
    asked = fields(input_audio_transcription=transcription)
    assert update(Settings(), asked, FAKE_INFO).language == language


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (fields(type="realtime"), "session.type"),
        (fields(input_audio_format="mp3"), "session.input_audio_format"),
        (ga(format={"type": "audio/opus"}), "session.audio.input.format.type"),
        (ga(format={"type": "audio/pcm", "rate": 11025}), "session.audio.input.format.rate"),
        (ga(turn_detection={"type": "magic"}), "session.audio.input.turn_detection.type"),
        (
            fields(turn_detection={"type": "semantic_vad", "eagerness": "?"}),
            "session.turn_detection.eagerness",
        ),
        (ga(transcription={"language": "de"}), "session.audio.input.transcription.language"),
        (
            fields(input_audio_transcription={"language": "../"}),
            "session.input_audio_transcription.language",
        ),
    ],
)
def test_what_cannot_be_is_named(asked: wire.SessionFields, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        update(Settings(), asked, FAKE_INFO)
    assert caught.value.field == field


def test_sessions_are_shown_in_their_dialect() -> None:
    settings = update(Settings(), ga(transcription={"language": "en"}), FAKE_INFO)
    shown = msgspec.to_builtins(ga_session(settings, "sess_1", "m"))
    assert shown["object"] == "realtime.transcription_session"
    assert shown["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert shown["audio"]["input"]["transcription"]["model"] == "m"
    turn = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300}
    assert shown["audio"]["input"]["turn_detection"] == turn | {"silence_duration_ms": 500}
    settings = update(settings, ga(format={"type": "audio/pcma"}, turn_detection=None), FAKE_INFO)
    assert msgspec.to_builtins(ga_session(settings, "s", "m"))["audio"]["input"]["format"] == {
        "type": "audio/pcma"
    }
    beta = msgspec.to_builtins(beta_session(settings, "sess_1", "m"))
    assert beta["input_audio_format"] == "g711_alaw"
    assert beta["turn_detection"] is None
    assert "client_secret" not in beta

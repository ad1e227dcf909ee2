"""Ranges of what a client may ask for."""

from __future__ import annotations

import pytest

from stream_protocol.messages import Configure, Endpointing, Resume, ResumeChannel, Start
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.session.validation import validate_configure, validate_start

INFO = RecogniserInfo("tiny", ("en", "de"), 480_000, 8, 8)


def resume(position: int, *covered: int) -> Resume:
    return Resume("t", position, 0, [ResumeChannel(each) for each in covered])


@pytest.mark.parametrize(
    "start",
    [
        Start(),
        Start(partial_interval_ms=0, steps=64, language="de", channels=2),
        Start(encoding="webm", channels=7),
        Start(endpointing=Endpointing(silence_ms=100, max_segment_ms=30_000, min_speech_ms=0)),
        Start(resume=Resume(token="t", position=10**12, segment=4)),
    ],
)
def test_what_is_allowed(start: Start) -> None:
    validate_start(start, INFO)


@pytest.mark.parametrize(
    ("start", "field", "text"),
    [
        (Start(channels=3), "$.channels", "channels is 3; allowed: 1 to 2"),
        (Start(channels=0), "$.channels", "channels is 0"),
        (
            Start(partial_interval_ms=99),
            "$.partial_interval_ms",
            r"99; allowed: 0 \(no partials\) or 100 to 10000",
        ),
        (Start(steps=0), "$.steps", "1 to 64"),
        (Start(steps=65), "$.steps", "1 to 64"),
        (Start(language="english"), "$.language", "ISO 639-1"),
        (Start(language="fr"), "$.language", "'tiny' does not know language 'fr'; it knows en, de"),
        (Start(endpointing=Endpointing(silence_ms=99)), "$.endpointing.silence_ms", "100 to 5000"),
        (
            Start(endpointing=Endpointing(max_segment_ms=1999)),
            "$.endpointing.max_segment_ms",
            "2000 to 30000",
        ),
        (
            Start(endpointing=Endpointing(min_speech_ms=-1)),
            "$.endpointing.min_speech_ms",
            "0 to 2000",
        ),
        (Start(resume=Resume(token="t", position=-1)), "$.resume.position", "is -1"),
        (Start(resume=Resume(token="t", position=0, segment=-1)), "$.resume.segment", "is -1"),
        (Start(resume=Resume(token="", position=0)), "$.resume.token", "1 to 256 characters"),
        (Start(resume=resume(5)), "$.resume.channels", "1 transcript,"),
        (Start(channels=2, resume=resume(5, 5, 5)), "$.resume.channels", "1 transcript,"),
        (
            Start(channels=2, channel_mode="split", resume=resume(5, 5)),
            "$.resume.channels",
            "2 transcripts,",
        ),
        (Start(resume=resume(5, 4)), "$.resume.channels[0].covered", "is 4; allowed: 5 to "),
        (
            Start(channels=2, channel_mode="split", resume=resume(5, 5, 10**7)),
            "$.resume.channels[1].covered",
            "is 10000000",
        ),
    ],
)
def test_what_is_refused_names_field_value_and_range(start: Start, field: str, text: str) -> None:
    with pytest.raises(InvalidField, match=text) as caught:
        validate_start(start, INFO)
    assert caught.value.field == field


def test_configure_is_checked_where_it_says_something() -> None:
    validate_configure(Configure(), INFO)
    validate_configure(Configure(endpointing=Endpointing(), language="en"), INFO)
    for configure, field in (
        (Configure(endpointing=Endpointing(silence_ms=1)), "$.endpointing.silence_ms"),
        (Configure(language="xx"), "$.language"),
        (Configure(partial_interval_ms=1), "$.partial_interval_ms"),
    ):
        with pytest.raises(InvalidField) as caught:
            validate_configure(configure, INFO)
        assert caught.value.field == field

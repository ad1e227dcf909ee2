"""A timeline as a file of each kind."""

from __future__ import annotations

import io
import json

import pysubs2
import pytest
import webvtt

from stream_client.minutes import SUFFIXES, render_line, render_minutes
from stream_client.timeline import Placement, Timeline, Utterance
from stream_protocol.messages import Word

SECOND = 16_000


def said(number, name, start, text, is_final=True):
    words = (Word(text, start * SECOND, (start + 2) * SECOND, 0.5),) if is_final else ()
    return Utterance(
        number, name, start, start * SECOND, (start + 2) * SECOND, text,
        is_final=is_final, words=words, confidence=0.5, language="en",
    )  # fmt: skip


@pytest.fixture
def timeline():
    made = Timeline()
    for name in ("Anna", "Ben *B*"):
        made.join(name, Placement())
    made.add(said(1, "Ben *B*", 3601, "no <b>"))
    made.add(said(0, "Anna", 0, "good morning"))
    made.add(said(0, "Anna", 3, "all"))
    made.add(said(0, "Anna", 3600, "so we", is_final=False))
    return made


def test_markdown_has_turns_and_what_is_running(timeline):
    assert render_minutes(timeline, "markdown", "Plan #1") == (
        "# Plan \\#1\n\nAnna, Ben \\*B\\*; 01:00:03\n\n"
        "**Anna** (00:00:00): good morning all\n\n"
        "**Ben \\*B\\*** (01:00:01): no \\<b\\>\n\n"
        "*Anna: so we …*\n"
    )


def test_text_is_a_line_an_utterance(timeline):
    text = render_minutes(timeline, "text")
    assert text.splitlines()[0] == "[00:00:00] Anna: good morning"
    assert text.splitlines() == [render_line(each) for each in timeline.utterances]


def test_json_is_in_seconds(timeline):
    minutes = json.loads(render_minutes(timeline, "json", "Plan"))
    assert (minutes["title"], minutes["speakers"]) == ("Plan", ["Anna", "Ben *B*"])
    assert len(minutes["utterances"]) == 3
    assert minutes["utterances"][1] == {
        "speaker": "Anna",
        "start": 3.0,
        "end": 5.0,
        "text": "all",
        "language": "en",
        "confidence": 0.5,
        "words": [{"text": "all", "start": 3.0, "end": 5.0, "confidence": 0.5}],
    }


def test_webvtt_has_voices(timeline):
    captions = webvtt.from_buffer(io.StringIO(render_minutes(timeline, "vtt"))).captions
    assert [(caption.voice, caption.start) for caption in captions] == [
        ("Anna", "00:00:00.000"),
        ("Anna", "00:00:03.000"),
        ("Ben *B*", "01:00:01.000"),
    ]


def test_subtitles_begin_in_order():
    timeline = Timeline()
    long = " ".join(["word"] * 40)
    timeline.add(Utterance(0, "Anna", 0, 0, 30 * SECOND, long, is_final=True))
    timeline.add(Utterance(1, "Ben", 0, SECOND, 2 * SECOND, "no", is_final=True))
    lines = pysubs2.SSAFile.from_string(render_minutes(timeline, "srt"), format_="srt")
    starts = [line.start for line in lines]
    assert starts == sorted(starts)
    assert [line.plaintext for line in lines][1] == "Ben: no"


@pytest.mark.parametrize("format", SUFFIXES.values())
def test_nothing_said_is_a_file_too(format):
    assert "None" not in render_minutes(Timeline(), format)

"""The text of a file in each format, read back by other readers."""

from __future__ import annotations

import json

import pysubs2
import pytest

from stream_server.transports.file_job import FileSegment, FileWord
from stream_server.transports.transcription import Transcription, render, segment_cues

WORDS = (
    FileWord("seven", 16000, 20000, 0.9),
    FileWord(" four", 21000, 24000, 0.7),
)
SEGMENTS = (
    FileSegment(0, 12000, 26000, "seven four", WORDS, 0.8, "en"),
    FileSegment(1, 48000, 64000, "two <b>", (FileWord("two <b>", None, None, 0.5),), 0.5, "en"),
)
FILE = Transcription(SEGMENTS, 80000, None)


def test_text_and_json() -> None:
    assert render(FILE, "text") == (b"seven four two <b>\n", "text/plain; charset=utf-8")
    body, kind = render(FILE, "json")
    assert (json.loads(body), kind) == ({"text": "seven four two <b>"}, "application/json")


def test_nothing_said_is_an_empty_text() -> None:
    silence = Transcription((), 16000, None)
    assert json.loads(render(silence, "json")[0]) == {"text": ""}
    assert render(silence, "srt")[0] == b""
    verbose = json.loads(render(silence, "verbose_json")[0])
    assert (verbose["duration"], verbose["segments"]) == (1.0, [])


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_are_read_back(kind: str) -> None:
    body, media_type = render(FILE, kind)
    assert kind in media_type or media_type.startswith("application/x-subrip")
    events = pysubs2.SSAFile.from_string(body.decode(), format_=kind).events
    assert [(event.start, event.end) for event in events] == [(1000, 1500), (3000, 4000)]
    assert events[0].plaintext == "seven four"


def test_verbose_json_has_openais_fields() -> None:
    verbose = json.loads(render(FILE, "verbose_json")[0])
    assert verbose["task"] == "transcribe"
    assert (verbose["language"], verbose["duration"]) == ("en", 5.0)
    assert "words" not in verbose
    fields = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob"}
    fields |= {"compression_ratio", "no_speech_prob"}
    assert set(verbose["segments"][0]) == fields
    assert [s["start"] for s in verbose["segments"]] == [0.75, 3.0]


def test_words_are_listed_where_asked_for_and_known() -> None:
    verbose = json.loads(render(FILE, "verbose_json", has_words=True)[0])
    assert verbose["words"] == [
        {"word": "seven", "start": 1.0, "end": 1.25},
        {"word": "four", "start": 1.312, "end": 1.5},
    ]
    assert [segment["words"] for segment in verbose["segments"]] == [
        [
            {"word": "seven", "start": 1.0, "end": 1.25, "probability": 0.9},
            {"word": "four", "start": 1.312, "end": 1.5, "probability": 0.7},
        ],
        [],
    ]


def test_the_language_asked_for_is_named() -> None:
    verbose = json.loads(render(Transcription((), 1, "de"), "verbose_json")[0])
    assert verbose["language"] == "de"


def test_cues_of_one_segment() -> None:
    assert [cue.lines for cue in segment_cues(SEGMENTS[0])] == [("seven four",)]

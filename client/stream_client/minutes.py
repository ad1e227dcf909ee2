"""A meeting's timeline as Markdown, text, JSON, SRT or WebVTT.

Pure: a whole file each time. An utterance that began earlier may become final later, so a file
that is written while people speak is written anew, never appended to.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from stream_client.timeline import Timeline, Utterance
from stream_protocol.messages import CLOCK_RATE
from stream_protocol.subtitles import make_cues, render

MinutesFormat = Literal["text", "markdown", "json", "srt", "vtt"]
SUFFIXES: dict[str, MinutesFormat] = {
    ".txt": "text",
    ".md": "markdown",
    ".json": "json",
    ".srt": "srt",
    ".vtt": "vtt",
}
"""What a file's name says of its format."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|])")


class _Word(msgspec.Struct, frozen=True):
    text: str
    start: float
    """Seconds, as all below."""
    end: float
    confidence: float


class _Utterance(msgspec.Struct, frozen=True):
    speaker: str
    start: float
    end: float
    text: str
    language: str | None
    confidence: float
    words: list[_Word]


class _Minutes(msgspec.Struct, frozen=True):
    title: str
    speakers: tuple[str, ...]
    utterances: list[_Utterance]


def render_minutes(timeline: Timeline, format: MinutesFormat, title: str = "Meeting") -> str:
    """Return the text of a whole file.

    Args:
        timeline: What has been said so far.
        format: Of the file.
        title: Of the meeting; subtitles and text have none.
    """
    if format == "markdown":
        return _markdown(timeline, title)
    if format == "json":
        return _json(timeline, title)
    if format == "text":
        return "".join(f"{render_line(each)}\n" for each in timeline.utterances)
    cues = [
        cue
        for each in timeline.utterances
        for cue in make_cues(each.text, each.start, each.end, each.words, each.speaker)
    ]
    # WebVTT, 4.1: no cue begins before those that come before it.
    return render(sorted(cues, key=lambda cue: cue.start), format)


def render_line(utterance: Utterance) -> str:
    """Return an utterance as a line of text."""
    return f"[{_clock(utterance.start)}] {utterance.speaker}: {utterance.text}"


def _markdown(timeline: Timeline, title: str) -> str:
    speakers = ", ".join(_escaped(name) for name in timeline.speakers)
    paragraphs = [f"# {_escaped(title)}", f"{speakers}; {_clock(timeline.end)}"]
    paragraphs += [
        f"**{_escaped(turn.speaker)}** ({_clock(turn.start)}): {_escaped(turn.text)}"
        for turn in timeline.turns()
    ]
    paragraphs += [
        f"*{_escaped(each.speaker)}: {_escaped(each.text)} …*" for each in timeline.running
    ]
    return "\n\n".join(paragraphs) + "\n"


def _json(timeline: Timeline, title: str) -> str:
    utterances = [
        _Utterance(
            each.speaker,
            _seconds(each.start),
            _seconds(each.end),
            each.text,
            each.language,
            round(each.confidence, 3),
            [
                _Word(
                    word.text, _seconds(word.start), _seconds(word.end), round(word.confidence, 3)
                )
                for word in each.words
            ],
        )
        for each in timeline.utterances
    ]
    minutes = _Minutes(title, timeline.speakers, utterances)
    return msgspec.json.format(msgspec.json.encode(minutes)).decode() + "\n"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _seconds(samples: int) -> float:
    return round(samples / CLOCK_RATE, 3)


def _clock(samples: int) -> str:
    seconds = samples // CLOCK_RATE
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


__all__ = ["SUFFIXES", "MinutesFormat", "render_line", "render_minutes"]

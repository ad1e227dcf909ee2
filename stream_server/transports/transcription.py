"""The text of a whole file in the formats that clients ask for.

``verbose_json`` has the fields of OpenAI's; where our decoder has no such number (``avg_logprob``,
``no_speech_prob``, ...) the field is there and neutral, as clients index it without asking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

from stream_protocol.subtitles import Cue, make_cues
from stream_protocol.subtitles import render as render_subtitles
from stream_server.transports.file_job import FileSegment
from stream_server.transports.words import seconds

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]


@dataclass(frozen=True, slots=True)
class Transcription:
    """The text of a file."""

    segments: tuple[FileSegment, ...]
    length: int
    """Samples of the file."""
    language: str | None
    """What was asked for; none where the model decided."""

    @property
    def text(self) -> str:
        """The segments joined."""
        return " ".join(segment.text for segment in self.segments)


class _Word(msgspec.Struct, frozen=True):
    word: str
    start: float
    end: float


class _Segment(msgspec.Struct, frozen=True):
    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0


class Text(msgspec.Struct, frozen=True):
    """The format `json`."""

    text: str


class VerboseText(msgspec.Struct, frozen=True, omit_defaults=True):
    """The format `verbose_json`."""

    task: str
    language: str
    duration: float
    text: str
    segments: list[_Segment] | None = None
    words: list[_Word] | None = None


def render(
    transcription: Transcription,
    response_format: ResponseFormat,
    *,
    has_words: bool = False,
    has_segments: bool = True,
) -> tuple[bytes, str]:
    """Return the body and its MIME type.

    Args:
        transcription: what to write.
        response_format: how.
        has_words: whether ``verbose_json`` lists words with their times.
        has_segments: whether it lists segments with theirs.
    """
    match response_format:
        case "text":
            return f"{transcription.text}\n".encode(), "text/plain; charset=utf-8"
        case "srt" | "vtt":
            cues = [cue for segment in transcription.segments for cue in segment_cues(segment)]
            kind = "text/vtt" if response_format == "vtt" else "application/x-subrip"
            return render_subtitles(cues, response_format).encode(), f"{kind}; charset=utf-8"
        case "verbose_json":
            verbose = _verbose(transcription, has_words, has_segments)
            return msgspec.json.encode(verbose), "application/json"
        case "json":
            return msgspec.json.encode(Text(transcription.text)), "application/json"


def segment_cues(segment: FileSegment) -> list[Cue]:
    """Return the subtitles of one segment."""
    return make_cues(segment.text, segment.start, segment.end, segment.words)


def _verbose(transcription: Transcription, has_words: bool, has_segments: bool) -> VerboseText:
    segments = transcription.segments
    words = [
        _Word(word.text.strip(), seconds(word.start), seconds(word.end))
        for segment in segments
        for word in segment.words
        if word.start is not None and word.end is not None
    ]
    found = (segment.language for segment in segments if segment.language)
    return VerboseText(
        task="transcribe",
        language=transcription.language or next(found, ""),
        duration=seconds(transcription.length),
        text=transcription.text,
        segments=[
            _Segment(
                index,
                seconds(each.start),
                seconds(each.end),
                each.text,
                round(math.log(max(each.confidence, 1e-6)), 4),
            )
            for index, each in enumerate(segments)
        ]
        if has_segments
        else None,
        words=words if has_words else None,
    )


__all__ = ["ResponseFormat", "Text", "Transcription", "VerboseText", "render", "segment_cues"]

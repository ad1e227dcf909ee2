"""The text of a whole file in the formats that clients ask for.

``verbose_json`` has the fields of OpenAI's; where our decoder has no such number (``avg_logprob``,
``no_speech_prob``, ...) the field is there and neutral, as clients index it without asking. There
are segments also where only words are asked for, and the words in them as well: clients of servers
with faster-whisper (Vexa's bot for one) look for them there.
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


class _SegmentWord(msgspec.Struct, frozen=True):
    word: str
    start: float
    end: float
    probability: float


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
    words: list[_SegmentWord] | msgspec.UnsetType = msgspec.UNSET


class Text(msgspec.Struct, frozen=True):
    """The format `json`."""

    text: str


class VerboseText(msgspec.Struct, frozen=True, omit_defaults=True):
    """The format `verbose_json`."""

    task: str
    language: str
    duration: float
    text: str
    segments: list[_Segment]
    words: list[_Word] | None = None


def render(
    transcription: Transcription,
    response_format: ResponseFormat,
    *,
    has_words: bool = False,
) -> tuple[bytes, str]:
    """Return the body and its MIME type.

    Args:
        transcription: what to write.
        response_format: how.
        has_words: whether ``verbose_json`` lists words with their times.
    """
    match response_format:
        case "text":
            return f"{transcription.text}\n".encode(), "text/plain; charset=utf-8"
        case "srt" | "vtt":
            cues = [cue for segment in transcription.segments for cue in segment_cues(segment)]
            kind = "text/vtt" if response_format == "vtt" else "application/x-subrip"
            return render_subtitles(cues, response_format).encode(), f"{kind}; charset=utf-8"
        case "verbose_json":
            verbose = _verbose(transcription, has_words)
            return msgspec.json.encode(verbose), "application/json"
        case "json":
            return msgspec.json.encode(Text(transcription.text)), "application/json"


def segment_cues(segment: FileSegment) -> list[Cue]:
    """Return the subtitles of one segment."""
    return make_cues(segment.text, segment.start, segment.end, segment.words)


def _verbose(transcription: Transcription, has_words: bool) -> VerboseText:
    segments = transcription.segments
    words = [_Word(word.word, word.start, word.end) for each in segments for word in _words(each)]
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
                words=_words(each) if has_words else msgspec.UNSET,
            )
            for index, each in enumerate(segments)
        ],
        words=words if has_words else None,
    )


def _words(segment: FileSegment) -> list[_SegmentWord]:
    return [
        _SegmentWord(
            word.text.strip(), seconds(word.start), seconds(word.end), round(word.confidence, 3)
        )
        for word in segment.words
        if word.start is not None and word.end is not None
    ]


__all__ = ["ResponseFormat", "Text", "Transcription", "VerboseText", "render", "segment_cues"]

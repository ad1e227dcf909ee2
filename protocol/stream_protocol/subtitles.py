"""Finals as subtitles: SRT and WebVTT, written as they come, with or without who speaks.

Pure text and integers, shared by the client and by the server's upload endpoint. Times are
positions in samples at ``CLOCK_RATE``. A cue has at most two lines of 42 characters, the customary
limit of broadcasters; a speaker's name comes on top of that. This file knows nothing about files,
sockets or finals that may still come.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stream_protocol.messages import CLOCK_RATE

MAX_LINE = 42
"""Characters of a line."""
MAX_LINES = 2
MAX_CUE = 7 * CLOCK_RATE
"""Samples that a cue stays on the screen at most, unless one word alone is longer."""
PAUSE = CLOCK_RATE
"""Samples of silence between two words after which a new cue begins."""

SubtitleFormat = Literal["srt", "vtt"]

_TOKEN = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


class TimedWord(Protocol):
    """A word with its place in the audio where known; ``messages.Word`` is one."""

    @property
    def text(self) -> str:
        """With or without the spacing around it."""

    @property
    def start(self) -> int | None:
        """Samples."""

    @property
    def end(self) -> int | None:
        """Samples."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle."""

    start: int
    """Samples."""
    end: int
    """Samples; later than ``start``."""
    lines: tuple[str, ...]
    """One or two, none of them empty."""
    speaker: str | None = None
    """Who says it; none where nobody knows, or there is only one."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


def make_cues(
    text: str,
    start: int,
    end: int,
    words: Iterable[TimedWord] = (),
    speaker: str | None = None,
) -> list[Cue]:
    """Cut the text of a segment into cues.

    Args:
        text: The segment's text; none or only spaces gives no cue.
        start: Samples; where the segment begins.
        end: Samples; where it ends.
        words: Its words on the same clock. Where a word is missing or has no time, the time is
            spread over the characters between its neighbours.
        speaker: Who says it, for each cue.
    """
    text = text.strip()  # spacing around the text takes no time
    cues: list[Cue] = []
    running: list[_Token] = []
    for token in _tokens(text, _Timeline(text, start, end, words)):
        if running and _breaks_before(running, token):
            cues.append(_cue(running, speaker))
            running = []
        running.append(token)
    if running:
        cues.append(_cue(running, speaker))
    return cues


class SubtitleWriter:
    """Turns cues into the text of one file, a piece at a time.

    Args:
        format: ``srt`` or ``vtt``.
    """

    def __init__(self, format: SubtitleFormat) -> None:
        self._format: SubtitleFormat = format
        self._count = 0

    def header(self) -> str:
        """Return what the file begins with."""
        return "WEBVTT\n\n" if self._format == "vtt" else ""

    def write(self, cues: Iterable[Cue]) -> str:
        """Return the text of further cues, to be appended to what was returned before."""
        return "".join(self._write_one(cue) for cue in cues)

    def _write_one(self, cue: Cue) -> str:
        self._count += 1
        body = "\n".join(cue.lines)
        name = " ".join((cue.speaker or "").split())
        mark = ","
        if self._format == "vtt":
            # WebVTT, 4.1: cue text may contain neither "<", "&" nor "-->" as they stand, and 4.2.2:
            # nor may the name in a voice tag, which may stay open where it spans the whole cue.
            body, mark = html.escape(body, quote=False), "."
            name = f"<v {html.escape(name, quote=False)}>" if name else ""
        elif name:
            name += ": "  # SubRip has nothing for it; this is how people write it
        body = name + body
        first = round(cue.start * 1000 / CLOCK_RATE)
        last = max(round(cue.end * 1000 / CLOCK_RATE), first + 1)
        return f"{self._count}\n{_stamp(first, mark)} --> {_stamp(last, mark)}\n{body}\n\n"


def render(cues: Iterable[Cue], format: SubtitleFormat) -> str:
    """Return a whole file."""
    writer = SubtitleWriter(format)
    return writer.header() + writer.write(cues)


class _Timeline:
    """When each character of a text is spoken: linear between the words whose time is known."""

    def __init__(self, text: str, start: int, end: int, words: Iterable[TimedWord]) -> None:
        end = max(end, start + 1)
        knots = [(0, start)]
        cursor = 0
        for word in words:
            spoken = word.text.strip()
            if not spoken or word.start is None or word.end is None:
                continue
            at = text.find(spoken, cursor)
            if at < 0:
                continue
            cursor = at + len(spoken)
            for place, sample in ((at, word.start), (cursor, word.end)):
                # Clamped and never backwards, whatever the words say.
                knots.append((place, min(max(sample, knots[-1][1]), end)))
        knots.append((max(len(text), 1), end))
        self._places = [place for place, _ in knots]
        self._samples = [sample for _, sample in knots]

    def start_of(self, place: int) -> int:
        """Samples at which the character at ``place`` begins."""
        # Of several knots at one place the last is where the next word begins.
        return self._at(place, bisect_right(self._places, place) - 1)

    def end_of(self, place: int) -> int:
        """Samples at which the character before ``place`` ends."""
        return self._at(place, max(bisect_left(self._places, place) - 1, 0))

    def _at(self, place: int, index: int) -> int:
        following = min(index + 1, len(self._places) - 1)
        span = self._places[following] - self._places[index]
        if span <= 0:
            return self._samples[index]
        passed = (place - self._places[index]) / span
        return round(
            self._samples[index] + passed * (self._samples[following] - self._samples[index])
        )


def _tokens(text: str, timeline: _Timeline) -> Iterable[_Token]:
    for match in _TOKEN.finditer(text):
        # Scripts without spaces, and very long words: cut at the line's limit.
        for first in range(match.start(), match.end(), MAX_LINE):
            last = min(first + MAX_LINE, match.end())
            yield _Token(text[first:last], timeline.start_of(first), timeline.end_of(last))


def _breaks_before(running: Sequence[_Token], token: _Token) -> bool:
    if token.start - running[-1].end >= PAUSE or token.end - running[0].start > MAX_CUE:
        return True
    written = [item.text for item in running]
    if len(_wrap([*written, token.text])) > MAX_LINES:
        return True
    # A sentence that fills most of a line stands alone; very short ones may share a cue.
    return bool(_SENTENCE_END.search(written[-1])) and len(" ".join(written)) > MAX_LINE // 2


def _cue(tokens: Sequence[_Token], speaker: str | None) -> Cue:
    start = tokens[0].start
    lines = _balance([token.text for token in tokens])
    return Cue(start, max(tokens[-1].end, start + 1), lines, speaker)


def _wrap(words: Sequence[str]) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= MAX_LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _balance(words: Sequence[str]) -> tuple[str, ...]:
    """Return one line, or two of about the same length."""
    lines = _wrap(words)
    if len(lines) == 1:
        return tuple(lines)
    pairs = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    fitting = [pair for pair in pairs if max(map(len, pair)) <= MAX_LINE]
    return min(fitting, key=lambda pair: abs(len(pair[0]) - len(pair[1])))


def _stamp(milliseconds: int, mark: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{rest:03}"


__all__ = [
    "MAX_CUE",
    "MAX_LINE",
    "MAX_LINES",
    "PAUSE",
    "Cue",
    "SubtitleFormat",
    "SubtitleWriter",
    "TimedWord",
    "make_cues",
    "render",
]

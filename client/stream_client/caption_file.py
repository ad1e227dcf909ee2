"""Captions in a file that is complete at each moment, while people speak."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from stream_client.captions import speaker_of
from stream_client.client import RECONNECTED
from stream_client.errors import OutputError
from stream_client.whole_file import replace_file
from stream_protocol.messages import Final, Notice, Partial, ServerMessage
from stream_protocol.subtitles import Cue, SubtitleFormat, SubtitleWriter, make_cues

_FORMATS: dict[str, SubtitleFormat] = {".vtt": "vtt", ".srt": "srt"}


class CaptionFile:
    """A view that keeps a subtitle file up to date.

    Args:
        path: ends in ``.vtt`` or ``.srt``; what was there is replaced.
        is_live: whether what is being said now is the last cue, until its final is there.
        speakers: the names of who speaks on channel 0, 1, ….

    Raises:
        OutputError: the name has another ending, or the file cannot be written.
    """

    def __init__(self, path: Path, *, is_live: bool = False, speakers: Sequence[str] = ()) -> None:
        format = _FORMATS.get(path.suffix.lower())
        if format is None:
            raise OutputError(f"{path}: captions go into a file that ends in .vtt or .srt")
        self._path = path
        self._is_live = is_live
        self._speakers = speakers
        self._running: dict[int, Partial] = {}
        self._writer = SubtitleWriter(format)
        self._said = self._writer.header()
        self._written: str | None = None
        self._update()

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        match message:
            case Final():
                self._running.pop(message.channel, None)
                self._said += self._writer.write(self._cues(message, message.text))
            case Partial() if self._is_live:
                self._running[message.channel] = message
            case Notice(code=code) if code == RECONNECTED:
                self._running.clear()
            case _:
                return
        self._update()

    def close(self) -> None:
        """Leave what was said to the end, and nothing that was only begun."""
        self._running.clear()
        self._update()

    def _cues(self, message: Partial | Final, text: str) -> list[Cue]:
        name = speaker_of(message, self._speakers)
        words = message.words or () if isinstance(message, Final) else ()
        return make_cues(text, message.start, message.end, words, name or None)

    def _update(self) -> None:
        running = [
            cue
            for partial in self._running.values()
            for cue in self._cues(partial, partial.stable + partial.tentative)
        ]
        # A copy counts on where the finals are; the next final takes its number.
        tail = copy.copy(self._writer).write(sorted(running, key=lambda cue: cue.start))
        text = self._said + tail
        if text == self._written:
            return
        replace_file(self._path, text)
        self._written = text


__all__ = ["CaptionFile"]

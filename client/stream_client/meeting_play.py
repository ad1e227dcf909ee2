"""What ``stream-client meeting`` and ``stream-client join`` do: files as participants, minutes.

Minutes that are written while people speak are replaced as a whole, so that a reader finds a
complete file at each moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from stream_client.errors import ClientError, OutputError
from stream_client.meeting import Meeting
from stream_client.minutes import SUFFIXES, MinutesFormat, render_line, render_minutes
from stream_client.sources import FileSource, Pace
from stream_client.timeline import Timeline, Utterance
from stream_client.whole_file import replace_file
from stream_protocol.messages import CLOCK_RATE


@dataclass(frozen=True, slots=True)
class Track:
    """A participant whose audio is a file."""

    name: str
    path: Path
    at: int = 0
    """Samples of the meeting at which the file begins."""

    @classmethod
    def parse(cls, text: str) -> Track:
        """Read ``NAME=FILE``, or ``NAME=FILE@SECONDS`` of somebody who comes later.

        Raises:
            ValueError: It is neither.
        """
        name, equals, file = text.partition("=")
        path, mark, seconds = file.rpartition("@")
        if mark and seconds.replace(".", "", 1).isdigit():
            at = round(float(seconds) * CLOCK_RATE)
        else:
            path, at = file, 0
        if not (name.strip() and equals and path):
            raise ValueError(f"{text!r} is not NAME=FILE or NAME=FILE@SECONDS")
        return cls(name.strip(), Path(path), at)


def parse_address(text: str) -> tuple[str | None, str]:
    """Return the name, if there is one, and the address in ``[NAME=]URL``."""
    name, equals, address = text.partition("=")
    if not equals or "://" in name:  # this one is part of the address
        return None, text
    return name.strip() or None, address


class MinutesFile:
    """A file with what has been said so far.

    Args:
        path: Its suffix is its format.
        title: Of the meeting.

    Raises:
        OutputError: No format has this suffix.
    """

    def __init__(self, path: Path, title: str) -> None:
        format = SUFFIXES.get(path.suffix.lower())
        if format is None:
            raise OutputError(f"{path}: name it with one of {', '.join(SUFFIXES)}")
        self._path = path
        self._format: MinutesFormat = format
        self._title = title
        self.shows_running = self._format == "markdown"
        """Whether what is being said is in it."""

    def write(self, timeline: Timeline) -> None:
        """Replace what is in the file."""
        replace_file(self._path, render_minutes(timeline, self._format, self._title))


class MinutesView:
    """Shows a meeting: text as it comes, any other format at the end, files all the time.

    Args:
        out: Where it is printed.
        format: What is printed.
        files: Are written anew with each change of what is in them.
        title: Of the meeting.
    """

    def __init__(
        self, out: TextIO, format: MinutesFormat, files: Sequence[MinutesFile], title: str
    ) -> None:
        self._out = out
        self._format: MinutesFormat = format
        self._files = files
        self._title = title

    def show(self, update: Utterance, timeline: Timeline) -> None:
        """Take what is said, or has been said."""
        for file in self._files:
            if update.is_final or file.shows_running:
                file.write(timeline)
        if self._format == "text" and update.is_final and update.text:
            print(render_line(update), file=self._out, flush=True)

    def close(self, timeline: Timeline) -> None:
        """Write what is still to be written."""
        for file in self._files:
            file.write(timeline)
        if self._format != "text":
            text = render_minutes(timeline, self._format, self._title)
            print(text, end="", file=self._out, flush=True)


async def show_meeting(meeting: Meeting, view: MinutesView) -> None:
    """Show a meeting up to its end.

    Raises:
        ClientError: Somebody could not be heard to the end.
    """
    try:
        async for update in meeting:
            view.show(update, meeting.timeline)
    finally:
        view.close(meeting.timeline)
    if meeting.failures:
        failed = "; ".join(f"{each.speaker}: {each.error}" for each in meeting.failures)
        raise ClientError(f"{failed}; the minutes have gaps")


async def play_meeting(
    meeting: Meeting, tracks: Sequence[Track], pace: Pace, view: MinutesView
) -> None:
    """Play files into a meeting that is open, to the last final.

    Args:
        meeting: Open.
        tracks: Who speaks.
        pace: As spoken, or as fast as possible.
        view: Shows what they say.

    Raises:
        ClientError: A file cannot be read, or a stream failed.
    """

    async def play(track: Track) -> None:
        participant = await meeting.add(track.name, at=track.at)
        if pace == "realtime":
            await asyncio.sleep(track.at / CLOCK_RATE)
        async for piece in FileSource(track.path, pace=pace):
            await participant.send(piece)
        await participant.leave()

    async def play_all() -> list[BaseException]:
        playing = await asyncio.gather(*map(play, tracks), return_exceptions=True)
        # Whoever can be heard is heard to the end.
        await meeting.end()
        return [each for each in playing if each is not None]

    task = asyncio.create_task(play_all())
    try:
        await show_meeting(meeting, view)
        errors = await task
    finally:
        task.cancel()
        await asyncio.wait([task])
    if errors:
        raise errors[0]


__all__ = [
    "MinutesFile",
    "MinutesView",
    "Track",
    "parse_address",
    "play_meeting",
    "show_meeting",
]

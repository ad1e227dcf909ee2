"""What the user sees: messages of a stream as live captions, text, JSON lines, SRT or WebVTT.

A view is given every message of a stream, in order, and writes at once what can be written. It
knows nothing of servers or sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stream_client.client import RECONNECTED
from stream_protocol import codec
from stream_protocol.messages import CLOCK_RATE, Final, Notice, Partial, ServerMessage
from stream_protocol.subtitles import SubtitleFormat, SubtitleWriter, make_cues

Format = Literal["live", "text", "json", "srt", "vtt"]

STABLE, TENTATIVE, TIMES, SPEAKER = "bold", "dim", "cyan", "magenta"
"""Styles of text that stays, of text that may change, of times, and of who speaks."""


class View(Protocol):
    """Shows the messages of one stream."""

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""

    def close(self) -> None:
        """End: write what is still to be written."""


def make_view(format: Format, out: TextIO, speakers: Sequence[str] = ()) -> View:
    """Return the view for a format, writing to ``out``.

    Args:
        format: what is written.
        out: where to.
        speakers: the names of who speaks on channel 0, 1, …, for live captions.
    """
    if format == "json":
        return JsonView(out)
    if format == "srt" or format == "vtt":
        return SubtitleView(out, format)
    if format == "text":
        return TextView(out)
    if out.isatty():
        return LiveView(Console(file=out), speakers)
    return PlainLiveView(out, speakers)


class ViewGroup:
    """Several views of one stream.

    Args:
        views: shown to and closed in this order.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        for view in self._views:
            view.show(message)

    def close(self) -> None:
        """Close each, also if one of them fails at it."""
        with contextlib.ExitStack() as stack:
            for view in reversed(self._views):
                stack.callback(view.close)


class TextView:
    """The text of each final on a line of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        if isinstance(message, Final) and message.text.strip():
            _write(self._out, f"{message.text.strip()}\n")

    def close(self) -> None:
        """Do nothing: everything is written."""


class JsonView:
    """Every message as the protocol's JSON, one a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        _write(self._out, f"{codec.encode(message)}\n")

    def close(self) -> None:
        """Do nothing: everything is written."""


class SubtitleView:
    """Subtitles, each cue written as soon as its final is there."""

    def __init__(self, out: TextIO, format: SubtitleFormat) -> None:
        self._out = out
        self._writer = SubtitleWriter(format)
        _write(out, self._writer.header())

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        if isinstance(message, Final):
            cues = make_cues(message.text, message.start, message.end, message.words or ())
            _write(self._out, self._writer.write(cues))

    def close(self) -> None:
        """Do nothing: everything is written."""


class PlainLiveView:
    """Live captions where lines cannot be redrawn: a line for each partial and each final.

    The tentative part of a partial stands in square brackets. The whole transcript comes last.

    Args:
        out: where to write.
        speakers: the names of who speaks on channel 0, 1, ….
    """

    def __init__(self, out: TextIO, speakers: Sequence[str] = ()) -> None:
        self._out = out
        self._speakers = speakers
        self._finals: list[str] = []

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        if isinstance(message, Partial):
            stable, tentative = message.stable.strip(), message.tentative.strip()
            marked = f"[{tentative}]" if tentative else ""
            text = " ".join(part for part in (stable, marked) if part)
            _write(self._out, f"{self._said(message, '~', text)}\n")
        elif isinstance(message, Final) and (text := message.text.strip()):
            self._finals.append(text)
            _write(self._out, f"{self._said(message, ' ', text)}\n")

    def _said(self, message: Partial | Final, mark: str, text: str) -> str:
        name = speaker_of(message, self._speakers)
        return (
            f"{_span(message)} {mark} {name}: {text}"
            if name
            else f"{_times(message)} {mark} {text}"
        )

    def close(self) -> None:
        """Write the whole transcript."""
        _write(self._out, f"\n{' '.join(self._finals)}\n")


class LiveView:
    """Live captions on a terminal: tentative text is redrawn in place, finals scroll up.

    Args:
        console: A terminal of rich.
        speakers: The names of who speaks on channel 0, 1, ….
    """

    def __init__(self, console: Console, speakers: Sequence[str] = ()) -> None:
        self._speakers = speakers
        self._partials: dict[int, Partial] = {}
        self._finals: list[str] = []
        self._console = console
        # Redrawn when something changes and not by a timer: nothing runs between messages.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        match message:
            case Partial():
                self._partials[message.channel] = message
            case Final():
                self._partials.pop(message.channel, None)
                if text := message.text.strip():
                    self._finals.append(text)
                    self._console.print(Text.assemble(*self._margin(message), (text, STABLE)))
            case Notice(code=code) if code == RECONNECTED:
                self._partials.clear()
            case _:
                return
        self._live.update(self.render_partials(), refresh=True)

    def render_partials(self) -> Text:
        """Return what is being said now, a line for each channel."""
        lines = [
            Text.assemble(
                *self._margin(partial),
                (partial.stable.lstrip(), STABLE),
                (partial.tentative if partial.stable else partial.tentative.lstrip(), TENTATIVE),
            )
            for _, partial in sorted(self._partials.items())
        ]
        return Text("\n").join(lines)

    def _margin(self, message: Partial | Final) -> list[str | tuple[str, str]]:
        """Return what stands before the words: when, and who where that is known."""
        name = speaker_of(message, self._speakers)
        times = (_span(message) if name else _times(message), TIMES)
        # As wide as the longest name: the words of all stand below each other.
        width = max(map(len, self._speakers), default=0)
        return [times, "  ", (f"{name:<{width}}", SPEAKER), "  "] if name else [times, "  "]

    def close(self) -> None:
        """Take the running line off the screen and write the whole transcript."""
        self._partials.clear()
        self._live.update(Text(), refresh=True)
        self._live.stop()
        self._console.print()
        self._console.print(Text(" ".join(self._finals)))


def speaker_of(message: Partial | Final, speakers: Sequence[str]) -> str:
    """Return the name of who speaks on the message's channel; nothing if it is not known."""
    return speakers[message.channel] if message.channel < len(speakers) else ""


def _times(message: Partial | Final) -> str:
    channel = f" #{message.channel + 1}" if message.channel else ""
    return f"{_span(message)}{channel}"


def _span(message: Partial | Final) -> str:
    return f"{_clock(message.start)} - {_clock(message.end)}"


def _clock(samples: int) -> str:
    tenths = samples * 10 // CLOCK_RATE
    return f"{tenths // 600:02}:{tenths // 10 % 60:02}.{tenths % 10}"


def _write(out: TextIO, text: str) -> None:
    if text:
        out.write(text)
        # Into a pipe too: a reader behind it wants each line when it comes.
        out.flush()


__all__ = [
    "SPEAKER",
    "STABLE",
    "TENTATIVE",
    "TIMES",
    "Format",
    "JsonView",
    "LiveView",
    "PlainLiveView",
    "SubtitleView",
    "TextView",
    "View",
    "ViewGroup",
    "make_view",
    "speaker_of",
]

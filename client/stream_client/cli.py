"""``stream-client``: a file, the microphone, captions, a meeting, a room, or many streams.

Transcripts go to standard output, everything else to standard error. Any failure ends with one
line there and an exit status other than 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from stream_client.caption_file import CaptionFile
from stream_client.caption_forms import CaptionForm, YouTubeForm, ZoomForm
from stream_client.caption_push import CaptionPush
from stream_client.captions import Format, View, ViewGroup, make_view
from stream_client.client import Reconnect, Stream, connect
from stream_client.errors import ClientError, OutputError, SourceError
from stream_client.load import LoadPlan, find_files, run_load
from stream_client.meeting import Meeting, Mixing
from stream_client.meeting_play import (
    MinutesFile,
    MinutesView,
    Track,
    parse_address,
    play_meeting,
    show_meeting,
)
from stream_client.minutes import MinutesFormat
from stream_client.sources import FileSource, MicrophoneSource, Pace
from stream_protocol.messages import ChannelMode, Error, Final, Notice, Start

DEFAULT_URL = "ws://127.0.0.1:8000/v1/stream"
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it (128 + SIGINT)."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Stream speech to a diffscribe server and show the transcript as it comes.",
)

_Url = Annotated[str, typer.Option(envvar="DIFFSCRIBE_URL", help="WebSocket URL of the server.")]
_ApiKey = Annotated[
    str | None, typer.Option(envvar="DIFFSCRIBE_API_KEY", help="Key, if the server asks for one.")
]
_FormatOption = Annotated[
    Format | None,
    typer.Option(help="What is printed. Default: live on a terminal, else text."),
]
_Live = Annotated[bool, typer.Option("--live", help="The same as --format live.")]
_Device = Annotated[str | None, typer.Option(help="Number or part of the name of the microphone.")]
_Language = Annotated[str | None, typer.Option(help="ISO 639-1 code, e.g. en.")]
_Words = Annotated[bool, typer.Option("--words", help="Ask for word times and confidences.")]
_Steps = Annotated[int | None, typer.Option(min=1, max=64, help="Denoising steps of a final.")]
_Interval = Annotated[
    int, typer.Option(min=0, max=10_000, help="Milliseconds between partials; 0: none.")
]

_MinutesFormat = Annotated[
    MinutesFormat, typer.Option("--format", help="What is printed: text as it comes, or else last.")
]
_MinutesFiles = Annotated[
    list[Path] | None,
    typer.Option("--out", help="Minutes that grow: .md, .json, .srt, .vtt or .txt. Any number."),
]
_Title = Annotated[str, typer.Option(help="Of the minutes.")]
_Mixed = Annotated[
    Mixing,
    typer.Option(help="One stream for several: never, if the server is full, or always for all."),
]


@app.command()
def file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Audio or video, any container.")],
    url: _Url = DEFAULT_URL,
    pace: Annotated[Pace, typer.Option(help="As spoken, or as fast as possible.")] = "realtime",
    format: _FormatOption = None,
    live: _Live = False,
    language: _Language = None,
    words: _Words = False,
    steps: _Steps = None,
    partial_interval_ms: _Interval = 500,
    api_key: _ApiKey = None,
) -> None:
    """Transcribe a file."""
    chosen = _format(format, live)
    # Subtitles are timed by their words, so these are asked for.
    start = _start(language, words or chosen in ("srt", "vtt"), steps, partial_interval_ms)
    source = FileSource(path, pace=pace, chunk_ms=100 if pace == "realtime" else 1000)
    if asyncio.run(_transcribe(url, start, source, make_view(chosen, sys.stdout), api_key)):
        raise typer.Exit(INTERRUPTED)


@app.command()
def mic(
    url: _Url = DEFAULT_URL,
    device: _Device = None,
    format: _FormatOption = None,
    live: _Live = False,
    language: _Language = None,
    words: _Words = False,
    steps: _Steps = None,
    partial_interval_ms: _Interval = 500,
    api_key: _ApiKey = None,
) -> None:
    """Transcribe the microphone until Ctrl-C."""
    chosen = _format(format, live)
    start = _start(language, words or chosen in ("srt", "vtt"), steps, partial_interval_ms)
    source = _microphone(device)
    asyncio.run(_transcribe(url, start, source, make_view(chosen, sys.stdout), api_key))
    _check_gaps(source)


@app.command()
def captions(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Audio or video, as spoken; none: the microphone."),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A .vtt or .srt file, complete at each moment; may be repeated."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="In the file, also what is being said now.")
    ] = False,
    zoom: Annotated[
        str | None,
        typer.Option(envvar="DIFFSCRIBE_ZOOM_URL", help="Caption address of a Zoom meeting."),
    ] = None,
    zoom_language: Annotated[str, typer.Option(help="Language and country for Zoom.")] = "en-US",
    youtube: Annotated[
        str | None,
        typer.Option(envvar="DIFFSCRIBE_YOUTUBE_URL", help="Caption address of a broadcast."),
    ] = None,
    speaker: Annotated[
        list[str] | None,
        typer.Option(help="Name before what is said; two: of a file's left and right channel."),
    ] = None,
    device: _Device = None,
    url: _Url = DEFAULT_URL,
    language: _Language = None,
    steps: _Steps = None,
    partial_interval_ms: _Interval = 500,
    api_key: _ApiKey = None,
) -> None:
    """Caption what is said: into a file, a Zoom meeting, a YouTube broadcast."""
    forms: list[CaptionForm] = []
    if zoom:
        forms.append(ZoomForm(zoom, zoom_language))
    if youtube:
        forms.append(YouTubeForm(youtube))
    if not (out or forms):
        raise typer.BadParameter("say where to: --out, --zoom or --youtube")
    speakers = tuple(speaker or ())
    if len(speakers) > (1 if path is None else 2):
        raise typer.BadParameter("one --speaker, or two of a file with a channel each")
    files = [CaptionFile(each, is_live=live, speakers=speakers) for each in out or ()]
    pushes = [CaptionPush(form, speakers, _note) for form in forms]
    shown = make_view("live" if sys.stdout.isatty() else "text", sys.stdout, speakers)
    start = _start(language, True, steps, partial_interval_ms)
    source: FileSource | MicrophoneSource
    if path is None:
        source = _microphone(device)
    else:
        channels = max(len(speakers), 1)
        source = FileSource(path, channels=channels)
        mode: ChannelMode = "split" if channels == 2 else "mix"
        start = msgspec.structs.replace(start, channels=channels, channel_mode=mode)
    view = ViewGroup([shown, *files, *pushes])
    is_stopped = asyncio.run(_transcribe(url, start, source, view, api_key))
    if isinstance(source, MicrophoneSource):
        _check_gaps(source)
    elif is_stopped:
        raise typer.Exit(INTERRUPTED)
    if lost := sum(push.lost for push in pushes):
        raise OutputError(f"{lost} captions were not taken")


@app.command()
def meeting(
    participants: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FILE[@SECONDS]...", help="Who speaks; @: who comes later."),
    ],
    url: _Url = DEFAULT_URL,
    pace: Annotated[Pace, typer.Option(help="As spoken, or as fast as possible.")] = "realtime",
    format: _MinutesFormat = "text",
    out: _MinutesFiles = None,
    title: _Title = "Meeting",
    mixed: _Mixed = "never",
    language: _Language = None,
    api_key: _ApiKey = None,
) -> None:
    """Transcribe a meeting: a file for each participant, one clock for all."""
    try:
        tracks = [Track.parse(text) for text in participants]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    view = MinutesView(sys.stdout, format, [MinutesFile(path, title) for path in out or ()], title)

    async def run() -> None:
        start = Start(language=language, words=True)
        async with Meeting(url, start, api_key=api_key, mixed=mixed) as room:
            await play_meeting(room, tracks, pace, view)

    asyncio.run(run())


@app.command()
def join(
    addresses: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]WHEP_URL...", help="Where somebody is heard by WHEP."),
    ],
    token: Annotated[
        str, typer.Option(envvar="DIFFSCRIBE_WHEP_TOKEN", help="Bearer token of the room.")
    ] = "",
    url: _Url = DEFAULT_URL,
    format: _MinutesFormat = "text",
    out: _MinutesFiles = None,
    title: _Title = "Meeting",
    mixed: _Mixed = "never",
    language: _Language = None,
    api_key: _ApiKey = None,
) -> None:
    """Join a room over WebRTC and transcribe each track, until it ends or Ctrl-C."""
    try:
        from stream_client.webrtc_bot import RoomBot
    except ModuleNotFoundError as error:
        raise ClientError(f"{error}: pip install 'diffscribe[bot]'") from None
    view = MinutesView(sys.stdout, format, [MinutesFile(path, title) for path in out or ()], title)

    async def listen(room: Meeting) -> None:
        try:
            async with RoomBot(room) as bot:
                for address in addresses:
                    name, place = parse_address(address)
                    await bot.join_whep(place, name=name, token=token)
                _note("listening; Ctrl-C ends")
                await bot.wait()
        finally:
            await room.end()

    async def run() -> None:
        start = Start(language=language, words=True)
        async with Meeting(url, start, api_key=api_key, mixed=mixed) as room:
            pump = asyncio.create_task(listen(room))
            with _stopping_on_interrupt(pump):
                await show_meeting(room, view)
            await asyncio.wait([pump])
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    asyncio.run(run())


@app.command()
def load(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file or a folder; none: a synthetic voice."),
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 10,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Seconds of audio each; default: the file once.")
    ] = None,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds over which they begin.")] = 5.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes to spread them over.")] = 1,
    chunk_ms: Annotated[int, typer.Option(min=1, help="Milliseconds of audio in a message.")] = 100,
    url: _Url = DEFAULT_URL,
    steps: _Steps = None,
    partial_interval_ms: _Interval = 500,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    api_key: _ApiKey = None,
) -> None:
    """Play many streams at real-time pace, check each, and report latencies."""
    start = _start(None, False, steps, partial_interval_ms)
    files = find_files(path) if path is not None else ()
    plan = LoadPlan(url, streams, files, start, api_key, seconds, ramp, chunk_ms)
    report = run_load(plan, processes)
    if json:
        print(msgspec.json.encode(asdict(report)).decode())
    else:
        Console().print(report.table())
    for problem in report.problems:
        _note(problem)
    if report.failed:
        raise ClientError(f"{report.failed} of {report.streams} streams failed")


def main() -> None:
    """Run the command line; the entry point."""
    try:
        app()
    except ClientError as error:
        _note(f"error: {error}")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)


def _start(language: str | None, words: bool, steps: int | None, interval: int) -> Start:
    return Start(language=language, words=words, steps=steps, partial_interval_ms=interval)


def _microphone(device: str | None) -> MicrophoneSource:
    number = int(device) if device is not None and device.isdigit() else device
    source = MicrophoneSource(number)
    _note("listening; Ctrl-C ends")
    return source


def _check_gaps(source: MicrophoneSource) -> None:
    if source.lost:
        raise SourceError(
            f"{source.lost * 100} ms of audio were lost: the server was away too long"
        )


def _format(format: Format | None, live: bool) -> Format:
    if live:
        if format not in (None, "live"):
            raise typer.BadParameter(f"--live and --format {format} contradict each other")
        return "live"
    return format or ("live" if sys.stdout.isatty() else "text")


async def _transcribe(
    url: str, start: Start, source: AsyncIterable[bytes], view: View, api_key: str | None
) -> bool:
    """Stream a source into a view; return whether Ctrl-C ended the source."""
    failed, is_heard = 0, False
    with contextlib.closing(view):
        async with connect(url, start, api_key=api_key, reconnect=Reconnect()) as stream:
            pump = asyncio.create_task(_pump(stream, source))
            with _stopping_on_interrupt(pump):
                try:
                    async for message in stream:
                        view.show(message)
                        if isinstance(message, Final):
                            is_heard = is_heard or bool(message.text.strip())
                        elif isinstance(message, Notice):
                            _note(f"{message.code}: {message.message}")
                        elif isinstance(message, Error):
                            failed += 1
                            _note(f"{message.code}: {message.message}")
                finally:
                    pump.cancel()
                    await asyncio.wait([pump])
    if not pump.cancelled() and (error := pump.exception()) is not None:
        raise error
    if failed:
        raise ClientError(f"{failed} errors; the transcript has gaps")
    if not is_heard:
        _note("no words were recognised")
    return pump.cancelled()


async def _pump(stream: Stream, source: AsyncIterable[bytes]) -> None:
    """Send a source; whatever ends it, the server is asked for what is left."""
    try:
        async for piece in source:
            await stream.send(piece)
    finally:
        # A failed stream refuses this; its reader reports the failure.
        with contextlib.suppress(ClientError):
            await stream.stop()


@contextlib.contextmanager
def _stopping_on_interrupt(pump: asyncio.Task[None]) -> Iterator[None]:
    """Let the first Ctrl-C end the source, so that the last final still comes."""
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()

    def interrupt() -> None:
        if not pump.cancel() and main_task is not None:
            main_task.cancel()  # the second: do not wait for the server

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

__all__ = ["DEFAULT_URL", "INTERRUPTED", "app", "main"]

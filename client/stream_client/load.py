"""The load generator: many paced streams at once, checked, with percentiles of the latencies.

It uses the same client as everybody. Every stream is checked: each sample acknowledged, no error,
``done`` received. Latencies are measured against the moment at which the client gave the sample in
question to its socket, so that they are what a speaker would see, network included.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.table import Table

from stream_client.client import Stream, connect
from stream_client.errors import ClientError, SourceError
from stream_client.sources import BYTES_PER_SECOND, decode_file
from stream_protocol.messages import (
    CLOCK_RATE,
    Done,
    Error,
    Final,
    Partial,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
)

PERCENTILES = (50, 95, 99)

# fmt: off
_SUFFIXES = frozenset((
    ".aac", ".flac", ".m4a", ".mka", ".mkv", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav",
    ".webm",
))
# fmt: on
"""Of the files in a folder that are played."""
_VOICES = 8
"""Different voices where there are no files; the streams share them."""
_SYNTHETIC_SECONDS = 30.0
"""Of a stream without files, unless it is said."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is run."""

    url: str
    streams: int
    files: tuple[Path, ...]
    """Stream ``i`` plays file ``i`` modulo their number; without any, a synthetic voice."""
    start: Start
    api_key: str | None = None
    seconds: float | None = None
    """Seconds of audio of each stream, the file repeated or cut; none is the file once."""
    ramp_seconds: float = 5.0
    """Seconds over which the streams begin, evenly."""
    chunk_ms: int = 100
    """Milliseconds in a piece of audio."""


@dataclass(slots=True)
class StreamResult:
    """What happened to one stream. Latencies in milliseconds, one for each segment."""

    sent_samples: int = 0
    acked_samples: int = 0
    is_done: bool = False
    finals: int = 0
    problems: list[str] = field(default_factory=list)
    first_partial_ms: list[float] = field(default_factory=list)
    """From the start of speech to the first partial."""
    final_ms: list[float] = field(default_factory=list)
    """From the end of speech to the final: the pause that proves it is in here."""
    finalise_ms: list[float] = field(default_factory=list)
    """From ``speech_ended`` to the final: what the server takes once it knows."""
    late_ms: float = 0.0
    """How far the generator itself was behind its pace at worst: if large, it is the bottleneck."""
    partials: int = 0

    def check(self) -> None:
        """Add what is missing to the problems."""
        if not self.is_done:
            self.problems.append("no done")
        if self.acked_samples != self.sent_samples:
            self.problems.append(f"sent {self.sent_samples} samples, acked {self.acked_samples}")


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one latency, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        """Return the percentiles (nearest rank); all 0 without values."""
        if not values:
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        ranked = sorted(values)
        p50, p95, p99 = (ranked[-(-len(ranked) * p // 100) - 1] for p in PERCENTILES)
        return cls(len(ranked), p50, p95, p99, ranked[-1])


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What came out of a run."""

    streams: int
    failed: int
    """Streams with a problem."""
    audio_seconds: float
    """Of all streams together."""
    wall_seconds: float
    finals: int
    first_partial: Latency
    final: Latency
    finalise: Latency
    late_ms: float
    """The generator's own worst delay."""
    problems: tuple[str, ...]
    """Different problems, at most twenty."""
    partials: int = 0
    """Of all streams together."""

    @classmethod
    def of(cls, results: Sequence[StreamResult], wall_seconds: float) -> LoadReport:
        """Sum up the streams."""

        def latency(values: Callable[[StreamResult], list[float]]) -> Latency:
            return Latency.of([value for result in results for value in values(result)])

        problems = sorted({problem for result in results for problem in result.problems})
        return cls(
            streams=len(results),
            failed=sum(bool(result.problems) for result in results),
            audio_seconds=sum(result.sent_samples for result in results) / CLOCK_RATE,
            wall_seconds=wall_seconds,
            finals=sum(result.finals for result in results),
            first_partial=latency(lambda result: result.first_partial_ms),
            final=latency(lambda result: result.final_ms),
            finalise=latency(lambda result: result.finalise_ms),
            late_ms=max((result.late_ms for result in results), default=0.0),
            problems=tuple(problems[:20]),
            partials=sum(result.partials for result in results),
        )

    def table(self) -> Table:
        """Return the report for a terminal."""
        table = Table(
            title=f"{self.streams} streams, {self.failed} failed, {self.finals} finals, "
            f"{self.audio_seconds:.0f} s of audio in {self.wall_seconds:.1f} s"
        )
        table.add_column("latency, ms")
        for name in ("count", *(f"p{p}" for p in PERCENTILES), "max"):
            table.add_column(name, justify="right")
        rows = {
            "start of speech to first partial": self.first_partial,
            "end of speech to final": self.final,
            "speech_ended to final": self.finalise,
        }
        for name, row in rows.items():
            cells = (f"{value:.0f}" for value in (row.p50, row.p95, row.p99, row.worst))
            table.add_row(name, str(row.count), *cells)
        table.caption = f"the generator was at most {self.late_ms:.0f} ms behind its own pace"
        return table


class Watch:
    """Measures one stream from what it sent and what came back. Pure: times are arguments."""

    def __init__(self) -> None:
        self.result = StreamResult()
        self._positions: list[int] = []
        self._times: list[float] = []
        self._started: dict[int, int] = {}
        """Where speech began, by segment, until its first partial."""
        self._ended: dict[int, tuple[int, float]] = {}
        """Where speech ended and when that was said, by segment, until its final."""
        self._last_end: dict[int, tuple[int, int]] = {}
        """Where the newest segment of each channel ended, and its number."""
        self._cut: set[int] = set()
        """Segments that ended though speech went on: no moment at which anybody fell silent."""

    def sent(self, position: int, now: float) -> None:
        """Take note that audio up to ``position`` (samples) was sent at ``now`` (seconds)."""
        self._positions.append(position)
        self._times.append(now)
        self.result.sent_samples = position

    def received(self, message: ServerMessage, now: float) -> None:
        """Take note of a message received at ``now`` (seconds)."""
        match message:
            case SpeechStarted(segment=segment, channel=channel, at=at):
                end, number = self._last_end.get(channel, (None, segment))
                if at == end:
                    self._cut.add(number)
                else:
                    self._started[segment] = at
            case Partial(segment=segment):
                self.result.partials += 1
                begun = self._started.pop(segment, None)
                if begun is not None:
                    self.result.first_partial_ms.append(self._since(begun, now))
            case SpeechEnded(segment=segment, channel=channel, at=at):
                self._ended[segment] = (at, now)
                self._last_end[channel] = (at, segment)
            case Final(segment=segment):
                self._started.pop(segment, None)
                self._receive_final(message, now)
            case Error():
                self.result.problems.append(f"{message.code}: {message.message}")
            case Done():
                self.result.is_done = True

    def _receive_final(self, message: Final, now: float) -> None:
        end, announced = self._ended.pop(message.segment, (message.end, None))
        self.result.finals += 1
        if message.segment not in self._cut:
            self.result.final_ms.append(self._since(end, now))
        if announced is not None:
            self.result.finalise_ms.append((now - announced) * 1000)

    def _since(self, position: int, now: float) -> float:
        """Milliseconds since the sample at ``position`` was sent."""
        if not self._times:
            return 0.0
        index = min(bisect_left(self._positions, position), len(self._times) - 1)
        return (now - self._times[index]) * 1000


def find_files(path: Path) -> tuple[Path, ...]:
    """Return the file, or the folder's files of sound by name; others are passed over.

    Raises:
        SourceError: There is none.
    """
    if path.is_file():
        return (path,)
    files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else []
    found = tuple(sorted(each for each in files if each.suffix.lower() in _SUFFIXES))
    if not found:
        kinds = " ".join(sorted(_SUFFIXES))
        raise SourceError(f"{path}: there is no such file, or none in this folder of {kinds}")
    return found


def synthesise(seed: int, seconds: float) -> bytes:
    """Return a voice that says nothing, as 16 kHz mono s16le: for a load without recordings.

    Syllables of a buzz through three formants, in phrases of some seconds with pauses between
    them: a speech detector takes it for speech, and finds its pauses.
    """
    chance = np.random.default_rng(seed)
    pitch = chance.uniform(90, 220)
    pieces: list[npt.NDArray[np.float64]] = [np.zeros(int(chance.uniform(0, 1) * CLOCK_RATE))]
    left = int(seconds * CLOCK_RATE) - len(pieces[0])
    while left > 0:
        for _ in range(chance.integers(5, 25)):
            voiced = _syllable(pitch * chance.uniform(0.9, 1.1), chance)
            pieces += [voiced, np.zeros(int(chance.uniform(0.02, 0.09) * CLOCK_RATE))]
        pieces.append(np.zeros(int(chance.uniform(0.7, 1.5) * CLOCK_RATE)))
        left = int(seconds * CLOCK_RATE) - sum(map(len, pieces))
    sound = np.concatenate(pieces)[: int(seconds * CLOCK_RATE)]
    sound += chance.normal(0.0, 0.0005, len(sound))
    return (sound * 32767).astype("<i2").tobytes()


def _syllable(pitch: float, chance: np.random.Generator) -> npt.NDArray[np.float64]:
    time = np.arange(int(chance.uniform(0.1, 0.25) * CLOCK_RATE)) / CLOCK_RATE
    formants = chance.uniform((300, 900, 2200), (800, 2000, 3000))
    harmonics = pitch * np.arange(1, int(3500 / pitch))
    gains = np.exp(-(((harmonics[:, None] - formants) / 200) ** 2)).sum(axis=1)
    wave = gains @ np.sin(2 * np.pi * harmonics[:, None] * time)
    swell = np.sin(np.pi * np.arange(len(time)) / len(time)) ** 0.5
    wave *= chance.uniform(0.1, 0.3) * swell / np.abs(wave).max()
    return np.asarray(wave)


def read_clip(path: Path, seconds: float | None) -> bytes:
    """Return a file's audio as 16 kHz mono s16le, repeated or cut to ``seconds``."""
    clip = b"".join(decode_file(path))
    if not clip:
        raise SourceError(f"{path}: there is no audio in this file")
    if seconds is None:
        return clip
    size = int(seconds * CLOCK_RATE) * 2
    return (clip * (size // len(clip) + 1))[:size]


async def run_streams(plan: LoadPlan, first: int, count: int) -> list[StreamResult]:
    """Run streams ``first`` to ``first + count`` of the plan in this process.

    The clips are decoded before the first stream begins.
    """
    sources: tuple[Path | int, ...] = plan.files or tuple(range(_VOICES))
    played = [sources[index % len(sources)] for index in range(first, first + count)]
    clips = {each: await asyncio.to_thread(_clip, each, plan.seconds) for each in set(played)}
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _run_stream(plan, clips[each], begin + plan.ramp_seconds * index / plan.streams)
            )
            for index, each in enumerate(played, start=first)
        ]
    return [task.result() for task in tasks]


def _clip(source: Path | int, seconds: float | None) -> bytes:
    if isinstance(source, Path):
        return read_clip(source, seconds)
    return synthesise(source, seconds or _SYNTHETIC_SECONDS)


async def _run_stream(plan: LoadPlan, clip: bytes, begin: float) -> StreamResult:
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    watch = Watch()
    try:
        async with connect(plan.url, plan.start, api_key=plan.api_key, reconnect=None) as stream:
            playing = asyncio.create_task(_play(stream, clip, plan.chunk_ms, watch))
            try:
                async for message in stream:
                    watch.received(message, time.monotonic())
                await playing
            finally:
                playing.cancel()
            watch.result.acked_samples = stream.acked
    except ClientError as error:
        watch.result.problems.append(str(error))
    watch.result.check()
    return watch.result


async def _play(stream: Stream, clip: bytes, chunk_ms: int, watch: Watch) -> None:
    size = BYTES_PER_SECOND * chunk_ms // 1000
    audio = memoryview(clip)
    begun = time.monotonic()
    for first in range(0, len(audio), size):
        piece = bytes(audio[first : first + size])
        due = begun + (first + len(piece)) / BYTES_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await stream.send(piece)
        now = time.monotonic()
        watch.result.late_ms = max(watch.result.late_ms, (now - due) * 1000)
        watch.sent((first + len(piece)) // 2, now)
    await stream.stop()


def run_load(plan: LoadPlan, processes: int = 1) -> LoadReport:
    """Run a plan and return the report.

    Args:
        plan: What is run.
        processes: Processes over which the streams are spread.
    """
    begin = time.monotonic()
    if processes <= 1:
        results = asyncio.run(run_streams(plan, 0, plan.streams))
        return LoadReport.of(results, time.monotonic() - begin)
    bounds = [plan.streams * index // processes for index in range(processes + 1)]
    # Fresh interpreters: a fork would copy the parent's event loop and threads.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = pool.map(
            _run_part,
            [plan] * processes,
            bounds[:-1],
            [last - first for first, last in zip(bounds, bounds[1:], strict=False)],
        )
        results = [result for part in parts for result in part]
    return LoadReport.of(results, time.monotonic() - begin)


def _run_part(plan: LoadPlan, first: int, count: int) -> list[StreamResult]:
    return asyncio.run(run_streams(plan, first, count))


__all__ = [
    "PERCENTILES",
    "Latency",
    "LoadPlan",
    "LoadReport",
    "StreamResult",
    "Watch",
    "find_files",
    "read_clip",
    "run_load",
    "run_streams",
    "synthesise",
]

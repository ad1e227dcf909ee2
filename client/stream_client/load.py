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
    Start,
)

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is run."""

    url: str
    streams: int
    files: tuple[Path, ...]
    """Stream ``i`` plays file ``i`` modulo their number."""
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
    """From the first sample of the segment to its first partial."""
    final_ms: list[float] = field(default_factory=list)
    """From the end of speech to the final."""
    finalise_ms: list[float] = field(default_factory=list)
    """From ``speech_ended`` to the final: the decoder and its queue alone."""
    late_ms: float = 0.0
    """How far the generator itself was behind its pace at worst: if large, it is the bottleneck."""

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
            "speech to first partial": self.first_partial,
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
        self._speech_ended: dict[int, tuple[int, float]] = {}
        self._seen: set[int] = set()

    def sent(self, position: int, now: float) -> None:
        """Take note that audio up to ``position`` (samples) was sent at ``now`` (seconds)."""
        self._positions.append(position)
        self._times.append(now)
        self.result.sent_samples = position

    def received(self, message: ServerMessage, now: float) -> None:
        """Take note of a message received at ``now`` (seconds)."""
        match message:
            case Partial(segment=segment) if segment not in self._seen:
                self._seen.add(segment)
                self.result.first_partial_ms.append(self._since(message.start, now))
            case SpeechEnded(segment=segment, at=at):
                self._speech_ended[segment] = (at, now)
            case Final(segment=segment):
                end, announced = self._speech_ended.pop(segment, (message.end, None))
                self.result.finals += 1
                self.result.final_ms.append(self._since(end, now))
                if announced is not None:
                    self.result.finalise_ms.append((now - announced) * 1000)
            case Error():
                self.result.problems.append(f"{message.code}: {message.message}")
            case Done():
                self.result.is_done = True

    def _since(self, position: int, now: float) -> float:
        """Milliseconds since the sample at ``position`` was sent."""
        if not self._times:
            return 0.0
        index = min(bisect_left(self._positions, position), len(self._times) - 1)
        return (now - self._times[index]) * 1000


def find_files(path: Path) -> tuple[Path, ...]:
    """Return the file, or the folder's files by name.

    Raises:
        SourceError: There is none.
    """
    files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []
    if path.is_file():
        files = [path]
    if not files:
        raise SourceError(f"{path}: there is no such file, or no file in this folder")
    return tuple(files)


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
    used = {plan.files[index % len(plan.files)] for index in range(first, first + count)}
    clips = {path: await asyncio.to_thread(read_clip, path, plan.seconds) for path in sorted(used)}
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _run_stream(
                    plan,
                    clips[plan.files[index % len(plan.files)]],
                    begin + plan.ramp_seconds * index / plan.streams,
                )
            )
            for index in range(first, first + count)
        ]
    return [task.result() for task in tasks]


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
]

"""Transcribe a file in this process: the same recogniser, engine and segmenter as the server's.

The trace shows what makes this decoder different: the whole canvas at every denoising step. It is
taken by a recogniser that wraps the real one, so neither engine nor model knows of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stream_protocol.messages import CLOCK_RATE
from stream_protocol.subtitles import SubtitleWriter
from stream_server.config import Config
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import (
    Hypothesis,
    Recogniser,
    RecogniserInfo,
    Row,
    Utterance,
)
from stream_server.scheduler.engine import Engine
from stream_server.server import LoadRecogniser, load_recogniser
from stream_server.session.driver import Services
from stream_server.transports.file_job import FileJob, FileSegment, FileTranscriber
from stream_server.transports.transcription import segment_cues


@dataclass(frozen=True, slots=True)
class OfflineJob:
    """One file to transcribe."""

    file: Path
    format: str
    """text, json, srt or vtt."""
    language: str | None = None
    trace: Callable[[str], None] | None = None
    """Takes a line for each denoising step; none traces nothing."""


@dataclass(slots=True)
class TracingRecogniser:
    """Passes every call on and shows the canvas after each step."""

    inner: Recogniser
    show: Callable[[str], None]
    _numbers: dict[int, int] = field(default_factory=dict)
    """Segment of each live row, by the row's identity."""
    _segments: dict[int, int] = field(default_factory=dict)
    """Number of each segment, by its seed; counts up from 0."""

    @property
    def info(self) -> RecogniserInfo:
        """The inner recogniser's."""
        return self.inner.info

    def warm_up(self) -> None:
        """Warm the inner recogniser up."""
        self.inner.warm_up()

    def start(self, utterances: Sequence[Utterance]) -> Sequence[Row]:
        """Start rows; a file's segments come in order, each with a seed of its own."""
        rows = self.inner.start(utterances)
        for row, utterance in zip(rows, utterances, strict=True):
            number = self._segments.setdefault(utterance.seed, len(self._segments))
            self._numbers[id(row)] = number
        return rows

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Run a step and show the canvas of each row."""
        hypotheses = self.inner.step(rows)
        for row, hypothesis in zip(rows, hypotheses, strict=True):
            place = f"segment {self._numbers.get(id(row), 0)}"
            canvas = " ".join((hypothesis.canvas or hypothesis.text).split())
            self.show(f"{place} step {hypothesis.step}/{row.utterance.steps} | {canvas}")
        return hypotheses

    def release(self, rows: Sequence[Row]) -> None:
        """Forget rows."""
        for row in rows:
            self._numbers.pop(id(row), None)
        self.inner.release(rows)


async def transcribe_offline(
    job: OfflineJob,
    config: Config,
    write: Callable[[str], None],
    on_ready: Callable[[], None] = lambda: None,
    load: LoadRecogniser = load_recogniser,
) -> None:
    """Transcribe a file, writing each segment as soon as it is there.

    Args:
        job: what to do.
        config: segmenter, scheduler and recogniser of it.
        write: takes the transcript, piece by piece.
        on_ready: called when the model is loaded.
        load: how the model is loaded.

    Raises:
        DiffscribeError: the model cannot be loaded, or the file not be read.
    """
    recogniser = load(config.recogniser)
    if job.trace is not None:
        recogniser = TracingRecogniser(recogniser, job.trace)
    engine = Engine(recogniser, config.scheduler)
    with ThreadPoolExecutor(1, thread_name_prefix="audio") as executor, job.file.open("rb") as file:
        services = Services(
            engine=engine,
            info=recogniser.info,
            limits=config.limits,
            segmenter=config.segmenter,
            metrics=Metrics(),
            executor=executor,
            recogniser=config.recogniser,
        )
        try:
            await asyncio.to_thread(engine.start)
            on_ready()
            file_job = FileJob("file", file, job.language, trace=job.trace is not None)
            transcriber = FileTranscriber(file_job, services)
            writer = _Writer(job.format)
            write(writer.begin())
            async with contextlib.aclosing(transcriber.segments()) as segments:
                async for segment in segments:
                    write(writer.segment(segment))
        finally:
            await asyncio.to_thread(engine.close)


class _Word(msgspec.Struct, frozen=True):
    text: str
    start: float | None
    end: float | None
    confidence: float


class _Line(msgspec.Struct, frozen=True):
    segment: int
    start: float
    end: float
    text: str
    language: str | None
    confidence: float
    words: list[_Word]


class _Writer:
    """One format: text and JSON have a line for each segment."""

    def __init__(self, format: str) -> None:
        self._format = format
        self._subtitles = SubtitleWriter("vtt" if format == "vtt" else "srt")

    def begin(self) -> str:
        return self._subtitles.header()

    def segment(self, segment: FileSegment) -> str:
        if self._format in ("srt", "vtt"):
            return self._subtitles.write(segment_cues(segment))
        if self._format == "text":
            return f"{segment.text}\n"
        return msgspec.json.encode(_line(segment)).decode() + "\n"


def _line(segment: FileSegment) -> _Line:
    return _Line(
        segment.number,
        segment.start / CLOCK_RATE,
        segment.end / CLOCK_RATE,
        segment.text,
        segment.language,
        segment.confidence,
        [
            _Word(word.text, _seconds(word.start), _seconds(word.end), word.confidence)
            for word in segment.words
        ],
    )


def _seconds(samples: int | None) -> float | None:
    return None if samples is None else samples / CLOCK_RATE


__all__ = ["OfflineJob", "TracingRecogniser", "transcribe_offline"]

"""A whole file to text: decode, find speech, ask the engine, give the answers in order.

The same segmenter and the same engine as for a live session, so a file neither goes before live
speech nor has a path of its own. A long file takes no more memory than a short one: it is decoded
as far as its segments are wanted. Knows nothing of HTTP or of the terminal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from stream_protocol.messages import CLOCK_RATE, Endpointing
from stream_server.audio import decode_blocks
from stream_server.errors import DeadlineExceeded, InvalidField
from stream_server.recogniser.interface import Hypothesis, Pcm, RecogniserInfo
from stream_server.scheduler.request import Decoded, Failed, Reply, Request
from stream_server.segmenter.segmenter import Segment, Segmenter, SegmentEvent
from stream_server.segmenter.vad import Vad
from stream_server.session.allowance import Meter, unmetered
from stream_server.session.driver import Services
from stream_server.transcript.text import begin_at

_BATCH = 10 * CLOCK_RATE
"""Samples that are decoded in one go on the executor: a few milliseconds of work, after which a
client that has gone is noticed."""
_IN_FLIGHT = 4
"""Segments of one file in the engine at once: enough to fill a batch, few enough that a file does
not take the places of live sessions."""


@dataclass(frozen=True, slots=True)
class FileJob:
    """What is to be done with a file."""

    name: str
    """Identifies the job across the engine."""
    source: bytes | BinaryIO = field(repr=False)
    language: str | None = None
    """ISO 639-1 code; none lets the model decide."""
    steps: int | None = None
    """Denoising steps of each segment; none takes the server's default."""
    trace: bool = False
    """Whether the recogniser shows the canvas at each step."""


@dataclass(frozen=True, slots=True)
class FileWord:
    """A word with its place in the file."""

    text: str
    start: int | None
    """Samples; none where unknown."""
    end: int | None
    """Samples; none where unknown."""
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class FileSegment:
    """The text of one stretch of speech in a file."""

    number: int
    start: int
    """Samples."""
    end: int
    """Samples."""
    text: str
    words: tuple[FileWord, ...]
    confidence: float
    """0 to 1, mean over the words; 0 for an empty text."""
    language: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """What about ten seconds of a file brought."""

    segments: tuple[Segment, ...]
    """Those that ended in it."""
    position: int
    """Samples; how far the file has been heard."""


def find_segments(
    source: bytes | BinaryIO, info: RecogniserInfo, aggressiveness: int
) -> Iterator[Piece]:
    """Yield the segments of a file, piece by piece.

    Raises:
        BadAudio: the file holds no audio that can be decoded.
    """
    longest = info.max_samples * 1000 // CLOCK_RATE
    endpointing = Endpointing()
    if longest < endpointing.max_segment_ms:
        endpointing = Endpointing(max_segment_ms=longest)
    vad, segmenter = Vad(aggressiveness), Segmenter(endpointing)
    position = 0
    for batch in _batches(decode_blocks(source)):
        position += len(batch)
        yield Piece(_finals(segmenter.feed(*vad.feed(batch))), position)
    ended = [*segmenter.feed(*vad.finish()), *segmenter.flush()]
    yield Piece(_finals(ended), position)


def _batches(blocks: Iterator[Pcm]) -> Iterator[Pcm]:
    pending: list[Pcm] = []
    for block in blocks:
        pending.append(block)
        if sum(map(len, pending)) >= _BATCH:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)


def _finals(events: list[SegmentEvent]) -> tuple[Segment, ...]:
    return tuple(event for event in events if isinstance(event, Segment))


def check_language(language: str | None, info: RecogniserInfo) -> None:
    """Check a language that a client names.

    Raises:
        InvalidField: the model does not know it.
    """
    if language is not None and info.languages and language not in info.languages:
        raise InvalidField(
            f"{language[:20]!r} is not one of {', '.join(info.languages)}", field="language"
        )


class FileTranscriber:
    """One job while it runs.

    Args:
        job: what is to be done.
        services: what the server shares.
        meter: told the samples that are heard; raises what ends the job.

    Raises:
        InvalidField: the model does not know the language.
    """

    def __init__(self, job: FileJob, services: Services, meter: Meter = unmetered) -> None:
        check_language(job.language, services.info)
        self.position = 0
        """Samples of the file that were heard so far; at the end, its length."""
        self._job = job
        self._services = services
        self._meter = meter

    async def segments(self) -> AsyncGenerator[FileSegment, None]:
        """Yield the segments in order, those without text left out.

        Close the iterator (``contextlib.aclosing``) to give up: what is in the engine is
        cancelled.

        Raises:
            BadAudio: the file holds no audio that can be decoded.
            LimitReached: the meter says that it is enough.
            ServiceError: the engine is full or failed.
        """
        waiting: deque[tuple[Segment, asyncio.Future[Reply]]] = deque()
        try:
            async for segment in self._find():
                waiting.append((segment, _submit(self._job, segment, self._services)))
                while len(waiting) >= _IN_FLIGHT or (waiting and waiting[0][1].done()):
                    if found := await _next(waiting):
                        yield found
            while waiting:
                if found := await _next(waiting):
                    yield found
        finally:
            self._services.engine.cancel(self._job.name)

    async def _find(self) -> AsyncIterator[Segment]:
        """Run :func:`find_segments` on the executor, a piece at a time."""
        loop = asyncio.get_running_loop()
        aggressiveness = self._services.segmenter.vad_aggressiveness
        pieces = find_segments(self._job.source, self._services.info, aggressiveness)
        while True:
            step = loop.run_in_executor(self._services.executor, next, pieces, None)
            try:
                piece = await asyncio.shield(step)
            except asyncio.CancelledError:
                # The step reads the file; who closes the file must find it unused.
                await asyncio.wait([step])
                step.exception()  # seen, and of interest to nobody: the client has left
                raise
            if piece is None:
                return
            self._meter(max(0, piece.position - self.position))
            self.position = max(self.position, piece.position)
            for segment in piece.segments:
                yield segment


async def _next(waiting: deque[tuple[Segment, asyncio.Future[Reply]]]) -> FileSegment | None:
    segment, future = waiting.popleft()
    return _to_segment(segment, _hypothesis(await future))


def _submit(job: FileJob, segment: Segment, services: Services) -> asyncio.Future[Reply]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()

    def resolve(reply: Reply) -> None:
        if not future.done():
            future.set_result(reply)

    def receive(reply: Reply) -> None:
        # On the engine's thread; the loop may be closed when the server stops at once.
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve, reply)

    steps = job.steps or services.recogniser.steps
    most = services.info.max_samples
    utterance = segment.utterance(most, steps, job.language, trace=job.trace)
    request = Request(
        job.name, segment.number, 1, is_final=True, utterance=utterance, is_live=False
    )
    services.engine.submit(request, receive)
    return future


def _hypothesis(reply: Reply) -> Hypothesis:
    if isinstance(reply, Decoded):
        return reply.hypothesis
    if isinstance(reply, Failed):
        raise reply.error
    raise DeadlineExceeded(f"a segment was not decoded: {reply.reason}")


def _to_segment(segment: Segment, hypothesis: Hypothesis) -> FileSegment | None:
    text = hypothesis.text.strip()
    if not text:
        return None
    words = tuple(
        FileWord(
            word.text,
            # The pause that was made up is no part of the file.
            None if word.start is None else min(segment.start + word.start, segment.end),
            None if word.end is None else min(segment.start + word.end, segment.end),
            word.confidence,
        )
        for word in begin_at(hypothesis.words, segment.onset - segment.start)
    )
    confidence = sum(word.confidence for word in words) / len(words)
    return FileSegment(
        segment.number, segment.start, segment.end, text, words, confidence, hypothesis.language
    )


__all__ = [
    "FileJob",
    "FileSegment",
    "FileTranscriber",
    "FileWord",
    "Piece",
    "check_language",
    "find_segments",
]

"""Clips through the service's own session: what both ways of pacing share.

A clip is a stream of its own, with silence around it: as in service, the final comes when a pause
has proved that the speech is over. ``simulation`` and ``realtime`` send it; ``track`` measures what
came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stream_protocol.messages import Final, Limits, Start
from stream_server.errors import RecognitionFailed
from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.manifest import Example, read_audio
from stream_server.evaluation.track import Timed, follow, joined
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    Pcm,
    Recogniser,
    RecogniserInfo,
    Row,
    Utterance,
)
from stream_server.session.session import SessionPolicy

BEFORE = SAMPLE_RATE // 2
"""Samples of silence before a clip."""
AFTER = SAMPLE_RATE * 3 // 2
"""Samples of silence after a clip, longer than the pause that ends a segment."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a stream is sent and decoded."""

    steps: int
    """Denoising steps of a final."""
    partial_steps: int = 3
    partial_interval_ms: int = 500
    language: str | None = None
    chunk_ms: int = 100
    """Milliseconds of audio in a message of the client."""
    vad_aggressiveness: int = 2

    def start(self) -> Start:
        """Return the client's first message."""
        return Start(
            encoding="pcm_s16le",
            language=self.language,
            partial_interval_ms=self.partial_interval_ms,
            steps=self.steps,
        )


Send = Callable[["Stopwatch", Pcm, StreamSettings], Sequence[Timed]]
"""A way of sending a stream: :func:`simulation.simulate` or :class:`realtime.RealTime`."""


@dataclass(slots=True)
class Stopwatch:
    """Passes every call on to a recogniser and adds up what they take."""

    inner: Recogniser
    seconds: float = field(default=0.0, init=False)
    """Of computing."""

    @property
    def info(self) -> RecogniserInfo:
        """The inner recogniser's."""
        return self.inner.info

    def warm_up(self) -> None:
        """Warm the inner recogniser up; not counted."""
        self.inner.warm_up()

    def start(self, utterances: Sequence[Utterance]) -> Sequence[Row]:
        """Start rows."""
        began = time.perf_counter()
        try:
            return self.inner.start(utterances)
        finally:
            self.seconds += time.perf_counter() - began

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Run a step."""
        began = time.perf_counter()
        try:
            return self.inner.step(rows)
        finally:
            self.seconds += time.perf_counter() - began

    def release(self, rows: Sequence[Row]) -> None:
        """Forget rows."""
        self.inner.release(rows)


def pieces(pcm: Pcm, chunk_ms: int) -> Iterator[tuple[int, bytes]]:
    """Yield a stream as a client sends it: 16-bit PCM, each piece with the sample after it."""
    data = np.clip(np.rint(pcm * 32767), -32768, 32767).astype("<i2")
    size = SAMPLE_RATE * chunk_ms // 1000
    for first in range(0, len(data), size):
        piece = data[first : first + size]
        yield first + len(piece), piece.tobytes()


def session_policy(info: RecogniserInfo, settings: StreamSettings) -> SessionPolicy:
    """Return what the server gives a session, without limits of time."""
    limits = Limits(
        max_message_bytes=1 << 20, max_unprocessed_ms=10_000, idle_timeout_ms=0, max_session_ms=0
    )
    return SessionPolicy(info, limits, "", settings.steps, settings.partial_steps)


def stream(
    watch: Stopwatch,
    examples: Sequence[Example],
    settings: StreamSettings,
    send: Send,
    progress: Callable[[Iterable[Example]], Iterable[Example]] = iter,
) -> list[Heard]:
    """Send every clip through a session and return what came, in order.

    Args:
        watch: the recogniser, warm.
        examples: the clips.
        settings: of the sessions; the language is the clip's.
        send: how they are paced.
        progress: shows how far it is.

    Raises:
        RecognitionFailed: a stream was told of an error.
    """
    heard = []
    for example in progress(examples):
        pcm = read_audio(example, BEFORE, AFTER)
        before = watch.seconds
        known = example.language in watch.info.languages
        own = replace(settings, language=example.language if known else None)
        messages = send(watch, pcm, own)
        track = follow(messages, len(pcm), example.language)
        if track.problems:
            raise RecognitionFailed(f"{example.audio}: {'; '.join(track.problems)}")
        finals = [each.message for each in messages if isinstance(each.message, Final)]
        heard.append(
            Heard(
                example,
                joined(messages),
                steps=sum(final.timings.steps for final in finals) / max(len(finals), 1),
                audio=len(pcm) / SAMPLE_RATE,
                seconds=watch.seconds - before,
                track=track,
            )
        )
    return heard


__all__ = [
    "AFTER",
    "BEFORE",
    "Send",
    "Stopwatch",
    "StreamSettings",
    "pieces",
    "session_policy",
    "stream",
]

"""A stream through the service at the pace of speech: the driver, the engine and their threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from stream_protocol.messages import ClientMessage, ServerMessage, Start, Stop
from stream_server.config import LimitsConfig, RecogniserConfig, SchedulerConfig, SegmenterConfig
from stream_server.evaluation.streaming import Stopwatch, StreamSettings, pieces
from stream_server.evaluation.track import Timed
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import SAMPLE_RATE, Pcm
from stream_server.scheduler.engine import Engine
from stream_server.session.driver import Services, run_session


@dataclass(slots=True)
class _PacedPeer:
    """A client that speaks at its own pace and notes when it is answered."""

    start: Start
    chunks: Iterator[tuple[int, bytes]]
    received: list[Timed] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _begun: float | None = None
    """Seconds on the loop's clock; none before the first sample."""
    _stopped: bool = False

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the first message, then audio when it is due, then ``stop``, then nothing."""
        if self._begun is None:
            self._begun = self._loop.time()
            return self.start
        end, chunk = next(self.chunks, (0, None))
        if chunk is not None:
            await asyncio.sleep(max(0.0, self._begun + end / SAMPLE_RATE - self._loop.time()))
            return chunk
        if self._stopped:
            await self._loop.create_future()  # until the session is over
        self._stopped = True
        return Stop()

    async def send(self, message: ServerMessage) -> None:
        """Note a message."""
        self.received.append(Timed(self._loop.time() - (self._begun or 0.0), message))

    async def close(self, code: int, reason: str) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, slots=True)
class RealTime:
    """A running engine to which streams are sent; see :func:`real_time`."""

    engine: Engine
    executor: Executor

    def send(self, watch: Stopwatch, pcm: Pcm, settings: StreamSettings) -> list[Timed]:
        """Send audio through a session, and return what came back, and when."""
        return asyncio.run(self._send(watch, pcm, settings))

    async def _send(self, watch: Stopwatch, pcm: Pcm, settings: StreamSettings) -> list[Timed]:
        services = Services(
            engine=self.engine,
            info=watch.info,
            limits=LimitsConfig(idle_timeout_ms=0),
            segmenter=SegmenterConfig(vad_aggressiveness=settings.vad_aggressiveness),
            metrics=Metrics(),
            executor=self.executor,
            recogniser=RecogniserConfig(steps=settings.steps, partial_steps=settings.partial_steps),
        )
        peer = _PacedPeer(settings.start(), pieces(pcm, settings.chunk_ms))
        await run_session(peer, services, "evaluation")
        return peer.received


@contextmanager
def real_time(watch: Stopwatch) -> Iterator[RealTime]:
    """Start an engine, and stop it in the end.

    Raises:
        ModelError: the model fails to warm up.
    """
    engine = Engine(watch, SchedulerConfig())
    with ThreadPoolExecutor(1, thread_name_prefix="audio") as executor:
        engine.start()
        try:
            yield RealTime(engine, executor)
        finally:
            engine.close()


__all__ = ["RealTime", "real_time"]

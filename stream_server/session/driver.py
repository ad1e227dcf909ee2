"""The asyncio shell of a session: reads, decodes off the loop, performs effects, sends.

Everything that decides anything is in ``session``. One session is one call of :func:`run_session`,
which returns when the session is over and leaves no task, timer or request behind, however it
ended. All state is touched on the loop alone: the executor gets bytes and gives frames, and the
engine's replies come in by ``call_soon_threadsafe``.

Nothing grows without bound: when finals, the client's own slowness or a full engine pile up, the
driver stops taking audio, then stops reading, and the client's socket tells it to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    ClientMessage,
    Error,
    Final,
    Flush,
    Flushed,
    Limits,
    Partial,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
)
from stream_server.config import LimitsConfig, RecogniserConfig, SegmenterConfig
from stream_server.errors import (
    BadAudio,
    DeadlineExceeded,
    Draining,
    LimitReached,
    Overloaded,
    ServiceError,
    error_message,
    wire_error,
)
from stream_server.metrics import Metrics, SessionOutcome
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo
from stream_server.scheduler.request import Dropped, Failed, Reply, Request
from stream_server.session.allowance import Allowance, Meter, unmetered
from stream_server.session.batcher import IntakeBatcher
from stream_server.session.effects import Cancel, Close, Effect, Promote, Send, Submit
from stream_server.session.inbox import Inbox, Item
from stream_server.session.intake import Frames, Intake
from stream_server.session.outbox import Outbox
from stream_server.session.session import Session, SessionPolicy, State
from stream_server.tracing import Tracing

_log = logging.getLogger(__name__)

_BATCH_MS = 40
"""Milliseconds of audio worth a hop to the executor; it may wait as long to become as much."""
_MAX_PENDING_FINALS = 4
"""Finals of one session that may wait for the engine before no more audio is taken."""
_MAX_PENDING_FLUSHES = 64
"""The same for answers to ``flush``."""
_RETRY_SECONDS = 0.05
"""Between attempts to hand a final to a full engine."""
_PATIENCE_SECONDS = 20.0
"""After which a final that the engine never took fails."""
_LINGER_SECONDS = 5.0
"""What a slow client gets to take the last messages."""
_CONTAINER_BYTES_PER_MS = 32
"""256 kbit/s: more than any recorder's Opus."""
_NO_AUDIO = np.zeros(0, np.float32)
_SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


class Peer(Protocol):
    """The client, whatever the transport."""

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the next message or audio; none once the client is gone.

        Raises:
            RemoteProtocolError: It sent something that is not legal.
        """

    async def send(self, message: ServerMessage) -> None:
        """Send a message; return when there is room for more. Raises if the client is gone."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; harmless if it is closed."""


class Audience(Protocol):
    """Whoever hears a session beside its client. Neither method may raise or wait."""

    def publish(self, session_id: str, message: ServerMessage) -> None:
        """Take a message that the client is sent."""

    def leave(self, session_id: str) -> None:
        """Take note that the session is over."""


class RequestEngine(Protocol):
    """What a session needs of the engine."""

    def submit(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Take a request; ``reply`` is called once, on any thread. May raise ServiceError."""

    def cancel(self, stream: str, segment: int | None = None) -> None:
        """Drop a stream's requests, or those of one segment."""

    def promote(self, stream: str, segment: int) -> None:
        """Make the partial of a segment its final, if it is still there."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the server shares among its sessions."""

    engine: RequestEngine
    info: RecogniserInfo
    limits: LimitsConfig
    segmenter: SegmenterConfig
    metrics: Metrics
    executor: Executor
    """For decoding and voice activity detection."""
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    """For its numbers of steps."""
    draining: asyncio.Event | None = None
    """Set when the server wants to stop: running sessions are told, new ones refused."""
    audience: Audience | None = None
    """Hears every session."""
    tracing: Tracing | None = None
    """Told of every session."""
    batcher: IntakeBatcher = field(init=False)
    """The sessions' way to the executor."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batcher", IntakeBatcher(self.executor))


async def run_session(
    peer: Peer, services: Services, session_id: str, meter: Meter = unmetered
) -> None:
    """Serve one client from its first message to the close.

    Never raises for what the client or the engine does; those end as messages to the client.

    Args:
        peer: The client.
        services: What the server shares.
        session_id: Unique among the sessions of the engine.
        meter: What the client may send in all.
    """
    try:
        start = await _receive_start(peer, services)
        if start is None:
            return
        driver = _Driver(peer, services, session_id, start, meter)
    except Exception as error:
        services.metrics.record_session_refused()
        await _refuse(peer, services, error)
        return
    await driver.run()


async def _receive_start(peer: Peer, services: Services) -> Start | None:
    idle_ms = services.limits.idle_timeout_ms
    try:
        async with asyncio.timeout(idle_ms / 1000 if idle_ms else None):
            first = await peer.receive()
    except TimeoutError:
        raise DeadlineExceeded(f"no `start` within {idle_ms} ms") from None
    if first is None:
        return None
    if not isinstance(first, Start):
        raise RemoteProtocolError("wrong_state", "the first message must be `start`")
    if services.draining is not None and services.draining.is_set():
        raise Draining("the server is about to stop; connect again, or to another")
    return first


async def _refuse(peer: Peer, services: Services, error: Exception) -> None:
    message = _fatal(error)
    services.metrics.record_error(message.code)
    with contextlib.suppress(Exception):  # it may be gone; there is nobody else to tell
        async with asyncio.timeout(_LINGER_SECONDS):
            await peer.send(message)
            await peer.close(wire_error(error).close_code, message.code)


def _fatal(error: Exception) -> Error:
    """Return the message for an error that ends the session."""
    if wire_error(error).code == "internal":
        _log.error("a session failed", exc_info=error)
    return msgspec.structs.replace(error_message(error), fatal=True)


def _leads(start: Start) -> list[int]:
    """Return the samples of each channel that the client sends again and has finals for."""
    resume = start.resume
    return [each.covered - resume.position for each in resume.channels or ()] if resume else []


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a session ends."""

    outcome: SessionOutcome
    code: int = 1000
    reason: str = ""
    message: Error | None = None
    is_deaf: bool = False
    """Whether the client takes nothing any more."""


class _Driver:
    """One running session."""

    def __init__(
        self, peer: Peer, services: Services, session_id: str, start: Start, meter: Meter
    ) -> None:
        self._peer = peer
        self._services = services
        self._id = session_id
        self._session = Session(session_id, start, _policy(services))
        self._intake = Intake(start, services.segmenter.vad_aggressiveness)
        self._notice: str | None = None
        self._inbox = _new_inbox(start, services.limits)
        self._outbox = Outbox()
        self._deferred: deque[tuple[float, Request]] = deque()
        """Finals that the engine had no place for, with the time at which patience ends."""
        self._stopwatch = _Stopwatch(services.metrics)
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._allowance = Allowance(services.limits, meter, self._heard, _leads(start))
        self._progress = asyncio.Event()
        self._end: asyncio.Future[_Ending] = self._loop.create_future()

    async def run(self) -> None:
        """Serve until the end, then leave nothing behind."""
        metrics = self._services.metrics
        metrics.record_session_started()
        tracing = self._services.tracing
        if tracing is not None:
            tracing.begin_session(self._id)
        _log.info("session began")
        outcome: SessionOutcome = "failed"
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [self._read, self._process, self._write, self._retry]
                parts += [self._watch_idle, self._watch_open, self._watch_draining]
                running = [tasks.create_task(self._guard(part)) for part in parts]
                self._perform(self._session.open())
                ending = await self._end
                outcome = ending.outcome
                await self._close(ending)
                for task in running:
                    task.cancel()
        finally:
            # Also when this task itself is cancelled: the engine must not go on for nobody.
            self._end.cancel()
            self._inbox.close()
            self._services.engine.cancel(self._id)
            if self._services.audience is not None:
                self._services.audience.leave(self._id)
            metrics.record_session_ended(outcome)
            _log.info("session ended: %s", outcome)
            if tracing is not None:
                tracing.end_session(self._id, outcome)

    # --- the parts, each a task -----------------------------------------------------------------

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:
            self._fail(error)

    async def _read(self) -> None:
        while True:
            await self._inbox.room()
            self._heard = self._loop.time()
            try:
                item = await self._peer.receive()
            except Exception as error:
                self._inbox.put(error)  # in its turn: what came before it is still served
                return
            self._heard = self._loop.time()
            if item is None:
                self._finish(_Ending("disconnected"))
                return
            self._inbox.put(item)

    async def _process(self) -> None:
        while not self._session.is_failing:
            for item in _joined(await self._inbox.take()):
                await self._capacity()
                await self._take(item)

    async def _take(self, item: Item) -> None:
        if self._session.is_failing:
            return
        match item:
            case bytes():
                if self._session.state is not State.STREAMING:
                    # Before it is decoded: what a decoder that has finished would say is no answer.
                    self._session.receive_audio(0, _NO_AUDIO, ())
                await self._take_audio(self._services.batcher.feed(self._intake, item))
            case Exception():
                raise item
            case Start():
                raise RemoteProtocolError("wrong_state", "`start` may be sent only once")
            case Stop():
                if self._session.state is State.STREAMING:
                    executor = self._services.executor
                    await self._take_audio(
                        self._loop.run_in_executor(executor, self._intake.finish)
                    )
                if not self._session.is_failing:
                    self._perform(self._session.receive_message(item))
            case _:
                if isinstance(item, Flush):
                    self._stopwatch.flush(self._loop.time())
                self._perform(self._session.receive_message(item))

    async def _take_audio(self, work: Awaitable[list[Frames]]) -> None:
        try:
            for each in await work:
                if self._session.is_failing:
                    return
                self._allowance.hear(each.channel, each.samples, self._loop.time())
                self._services.metrics.record_audio(each.samples / SAMPLE_RATE)
                self._perform(
                    self._session.receive_audio(each.channel, each.pcm, each.speech, each.samples)
                )
        except (BadAudio, LimitReached) as error:
            self._perform(self._session.fail(error))
            return
        if self._intake.notice != self._notice and self._intake.notice is not None:
            self._notice = self._intake.notice
            self._perform(self._session.notify("audio_adjusted", self._notice))

    async def _capacity(self) -> None:
        """Wait until the session may take more audio."""
        while (
            self._session.pending_finals > _MAX_PENDING_FINALS
            or self._session.pending_flushes > _MAX_PENDING_FLUSHES
            or self._deferred
            or self._outbox.is_full
        ):
            self._progress.clear()
            await self._progress.wait()

    async def _write(self) -> None:
        try:
            await self._outbox.send_all(self._send, self._progress.set)
        except TimeoutError:
            error = DeadlineExceeded("the client takes nothing of what it is sent")
            self._finish(_Ending("failed", wire_error(error).close_code, "timeout", is_deaf=True))
        except Exception:
            _log.debug("the client cannot be reached", exc_info=True)
            self._finish(_Ending("disconnected"))

    async def _send(self, message: ServerMessage) -> None:
        async with asyncio.timeout(self._services.limits.send_timeout_ms / 1000):
            await self._peer.send(message)
        self._stopwatch.record(message, self._loop.time())

    async def _retry(self) -> None:
        """Hand finals to an engine that had no place for them, in their order."""
        while True:
            while self._deferred:
                await asyncio.sleep(_RETRY_SECONDS)
                until, request = self._deferred[0]
                try:
                    self._services.engine.submit(request, self._reply)
                except Overloaded as error:
                    if self._loop.time() < until:
                        continue
                    self._receive(Failed(request, error))
                except ServiceError as error:
                    self._receive(Failed(request, error))
                self._deferred.popleft()
                self._progress.set()
            self._progress.clear()
            await self._progress.wait()

    async def _watch_idle(self) -> None:
        timeout = self._services.limits.idle_timeout_ms / 1000
        while timeout:
            is_streaming = self._session.state is State.STREAMING
            is_waiting = is_streaming and self._inbox.has_room and not self._session.pending_finals
            left = self._heard + timeout - self._loop.time()
            if left <= 0 and is_waiting:
                raise DeadlineExceeded(
                    f"no message for {timeout:g} s; send audio, also silence, or `stop`"
                )
            await asyncio.sleep(left if left > 0 else timeout)

    async def _watch_open(self) -> None:
        limit = self._services.limits.max_open_ms / 1000
        if limit:
            await asyncio.sleep(limit)
            text = f"a session may be open for {limit:g} s; connect again with `resume` to go on"
            self._perform(self._session.fail(LimitReached(text)))

    async def _watch_draining(self) -> None:
        if self._services.draining is not None:
            await self._services.draining.wait()
            text = "the server is about to stop: send `stop`, or connect again with `resume`"
            self._perform(self._session.notify("draining", text))

    # --- effects --------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if self._end.done():  # nothing follows what ended the session
                return
            match effect:
                case Send(message):
                    self._say(message)
                    self._stopwatch.start(message, self._session.position, self._loop.time())
                case Submit(request):
                    self._submit(request)
                case Cancel(segment):
                    self._services.engine.cancel(self._id, segment)
                case Promote(segment):
                    self._services.engine.promote(self._id, segment)
                case Close(code, reason):
                    outcome: SessionOutcome = "completed" if code == 1000 else "failed"
                    self._finish(_Ending(outcome, code, reason))

    def _say(self, message: ServerMessage) -> None:
        self._outbox.put(message)
        if self._services.audience is not None:
            self._services.audience.publish(self._id, message)

    def _submit(self, request: Request) -> None:
        try:
            if self._deferred:
                raise Overloaded("finals of this session wait for a place")
            self._services.engine.submit(request, self._reply)
        except ServiceError as error:
            # Never from within: the session is in the middle of a call.
            if not request.is_final:
                self._loop.call_soon(self._receive, Dropped(request, "expired"))
            elif isinstance(error, Overloaded):
                until = self._loop.time() + _PATIENCE_SECONDS
                self._deferred.append((until, request))
                self._progress.set()
            else:
                self._loop.call_soon(self._receive, Failed(request, error))

    def _reply(self, reply: Reply) -> None:
        """Take a reply on the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the session with it
            self._loop.call_soon_threadsafe(self._receive, reply)

    def _receive(self, reply: Reply) -> None:
        if self._end.done():
            return
        try:
            self._perform(self._session.receive_reply(reply))
        except Exception as error:
            self._fail(error)
        self._progress.set()

    # --- the end --------------------------------------------------------------------------------

    def _finish(self, ending: _Ending) -> None:
        if not self._end.done():
            self._end.set_result(ending)

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            message = _fatal(error)
            code = wire_error(error).close_code
            self._finish(_Ending("failed", code, message.code, message))

    async def _close(self, ending: _Ending) -> None:
        if ending.outcome != "disconnected" and not ending.is_deaf:
            if ending.message is not None:
                self._say(ending.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    await self._outbox.sent()
        with contextlib.suppress(Exception):  # it may be gone, or not care to be closed
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._peer.close(ending.code, ending.reason)


class _Stopwatch:
    """Measures what people wait for: the first partial, the final, the answer to a flush."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        self._flushes: deque[float] = deque()

    def flush(self, now: float) -> None:
        """Take note that a ``flush`` came ``now`` (seconds)."""
        self._flushes.append(now)

    def start(self, message: ServerMessage, position: int, now: float) -> None:
        """Take note of an event at ``position`` (samples), ``now`` (seconds)."""
        if isinstance(message, SpeechStarted):
            self._started[message.segment] = now - (position - message.at) / SAMPLE_RATE
        elif isinstance(message, SpeechEnded):
            self._ended[message.segment] = now - (position - message.at) / SAMPLE_RATE

    def record(self, message: ServerMessage, now: float) -> None:
        """Take note of a message that was sent ``now`` (seconds)."""
        if isinstance(message, Partial):
            started = self._started.pop(message.segment, None)
            if started is not None:
                self._metrics.record_first_partial(max(0.0, now - started))
        elif isinstance(message, Final):
            self._started.pop(message.segment, None)
            ended = self._ended.pop(message.segment, None)
            if ended is not None:
                self._metrics.record_final_latency(max(0.0, now - ended))
        elif isinstance(message, Flushed) and self._flushes:
            self._metrics.record_finalised(now - self._flushes.popleft())
        elif isinstance(message, Error):
            self._metrics.record_error(message.code)


def _policy(services: Services) -> SessionPolicy:
    limits = services.limits
    return SessionPolicy(
        info=services.info,
        limits=Limits(
            max_message_bytes=limits.max_message_bytes,
            max_unprocessed_ms=limits.max_unprocessed_ms,
            idle_timeout_ms=limits.idle_timeout_ms,
            max_session_ms=limits.max_session_ms,
        ),
        resume_token=secrets.token_urlsafe(16),
        default_steps=services.recogniser.steps,
        partial_steps=services.recogniser.partial_steps,
    )


def _new_inbox(start: Start, limits: LimitsConfig) -> Inbox:
    size = _SAMPLE_BYTES.get(start.encoding)
    if size is None:  # a recorder's message is a batch already
        batch, rate = 1, _CONTAINER_BYTES_PER_MS
    else:
        rate = max(1, start.sample_rate * start.channels * size // 1000)
        batch = rate * _BATCH_MS
    return Inbox(batch, _BATCH_MS / 1000, rate * limits.max_unprocessed_ms)


def _joined(items: Iterable[Item]) -> Iterable[Item]:
    """Yield the items with neighbouring audio in one piece: one hop for all of it."""
    audio: list[bytes] = []
    for item in items:
        if isinstance(item, bytes):
            audio.append(item)
            continue
        if audio:
            yield b"".join(audio)
            audio = []
        yield item
    if audio:
        yield b"".join(audio)


__all__ = ["Audience", "Peer", "RequestEngine", "Services", "run_session"]

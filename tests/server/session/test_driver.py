"""Whole sessions over a peer in memory, with the real engine and a fake recogniser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    ClientMessage,
    Configure,
    Done,
    Endpointing,
    Error,
    Final,
    Flush,
    Flushed,
    Notice,
    Partial,
    Ready,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
    Trace,
)
from stream_server.config import (
    LimitsConfig,
    RecogniserConfig,
    SchedulerConfig,
    SegmenterConfig,
)
from stream_server.errors import Draining, Overloaded, RecognitionFailed
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.scheduler.engine import Engine
from stream_server.scheduler.request import Failed, Reply, Request
from stream_server.session.driver import Services, run_session

RATE = 16_000


def vowel(seconds: float, pitch: float = 120.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.zeros_like(time)
    for harmonic in range(1, 30):
        hertz = pitch * harmonic
        gain = sum(np.exp(-(((hertz - formant) / 150) ** 2)) for formant in (600, 1200, 2500))
        wave += gain * np.sin(2 * np.pi * hertz * time)
    return 0.2 * wave / np.abs(wave).max()


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE))


def pcm16(*parts: np.ndarray) -> bytes:
    return (np.concatenate(parts) * 32767).astype("<i2").tobytes()


WORD = pcm16(silence(0.3), vowel(0.8), silence(0.8))


class MemoryPeer:
    """A client in memory: what it sends is queued, what it gets is kept."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[ClientMessage | bytes | Exception | None] = asyncio.Queue()
        self.messages: list[ServerMessage] = []
        self.closed: tuple[int, str] | None = None
        self.reads = 0
        self.arrived = asyncio.Condition()
        self.may_take = asyncio.Event()
        self.may_take.set()

    async def receive(self) -> ClientMessage | bytes | None:
        item = await self.incoming.get()
        self.reads += 1
        if isinstance(item, Exception):
            raise item
        return item

    async def send(self, message: ServerMessage) -> None:
        await self.may_take.wait()
        async with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    async def close(self, code: int, reason: str) -> None:
        assert self.closed is None
        self.closed = (code, reason)

    def say(self, *items: ClientMessage | bytes | Exception | None) -> None:
        for item in items:
            if isinstance(item, bytes):
                for start in range(0, len(item), 3200):
                    self.incoming.put_nowait(item[start : start + 3200])
            else:
                self.incoming.put_nowait(item)

    def of(self, kind: type) -> list[ServerMessage]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def wait_for(self, kind: type, count: int = 1) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(kind)) >= count)


class ScriptedEngine:
    """An engine that answers what the test wants, when it wants."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Request, Callable[[Reply], None]]] = []
        self.cancelled: list[tuple[str, int | None]] = []
        self.refusal: Overloaded | Draining | None = None
        self.took = asyncio.Event()
        self.took_final = asyncio.Event()

    def submit(self, request: Request, reply: Callable[[Reply], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append((request, reply))
        self.took.set()
        if request.is_final:
            self.took_final.set()

    def cancel(self, stream: str, segment: int | None = None) -> None:
        self.cancelled.append((stream, segment))

    def promote(self, stream: str, segment: int) -> None:
        request, reply = self.submitted[-1]
        assert request.key == (stream, segment)
        self.submitted[-1] = (replace(request, is_final=True), reply)
        self.took_final.set()

    def finals(self) -> list[tuple[Request, Callable[[Reply], None]]]:
        return [each for each in self.submitted if each[0].is_final]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def services(executor: ThreadPoolExecutor) -> AsyncIterator[Services]:
    engine = Engine(FakeRecogniser(), SchedulerConfig())
    engine.start()
    yield Services(
        engine,
        FAKE_INFO,
        LimitsConfig(),
        SegmenterConfig(),
        Metrics(),
        executor,
        RecogniserConfig(steps=4, partial_steps=2),
        asyncio.Event(),
    )
    # A session that ended leaves nothing in the engine.
    assert await asyncio.to_thread(engine.drain, 5.0)
    engine.close()
    assert len(asyncio.all_tasks()) == 1, "a task outlived its session"


async def serve(peer: MemoryPeer, services: Services, name: str = "s") -> None:
    async with asyncio.timeout(20):
        await run_session(peer, services, name)


async def test_speech_in_text_out(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(words=True), WORD, WORD, Stop())
    await serve(peer, services)
    assert peer.closed == (1000, "done")
    assert isinstance(peer.messages[0], Ready)
    first, second = peer.of(Final)
    assert isinstance(first, Final)
    assert isinstance(second, Final)
    assert first.text
    assert first.words is not None
    assert " ".join(word.text for word in first.words) == first.text
    assert first.timings.steps == 4
    assert first.end <= second.start
    done = peer.messages[-1]
    assert done == Done(samples=2 * len(WORD) // 2, segments=2)
    assert len(peer.of(SpeechStarted)) == len(peer.of(SpeechEnded)) == 2
    assert peer.of(Ack)
    rendered = services.metrics.render().decode()
    assert 'diffscribe_sessions_ended_total{outcome="completed"} 1.0' in rendered
    assert "diffscribe_final_latency_seconds_count 2.0" in rendered


class Listener:
    """An audience."""

    def __init__(self) -> None:
        self.heard: list[ServerMessage] = []
        self.left: list[str] = []

    def publish(self, session_id: str, message: ServerMessage) -> None:
        assert session_id == "s"
        assert not self.left
        self.heard.append(message)

    def leave(self, session_id: str) -> None:
        self.left.append(session_id)


@pytest.mark.parametrize("end", [Stop(), RemoteProtocolError("bad_message", "m"), None])
async def test_an_audience_hears_what_the_client_is_sent(services: Services, end) -> None:
    listener, peer = Listener(), MemoryPeer()
    listening = replace(services, audience=listener)
    peer.say(Start(trace=True), WORD, end)
    await serve(peer, listening)
    assert listener.left == ["s"]
    told = [each for each in peer.messages if not isinstance(each, Ack | Partial | Trace)]
    heard = [each for each in listener.heard if not isinstance(each, Ack | Partial | Trace)]
    assert heard[: len(told)] == told
    if end is not None:
        assert heard[-1] == peer.messages[-1]


async def test_a_client_that_asks_sees_each_decode(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(trace=True), WORD, Stop())
    await serve(peer, services)
    (final,) = peer.of(Final)
    assert isinstance(final, Final)
    before = peer.messages[: peer.messages.index(final)]
    trace = [each for each in before if isinstance(each, Trace)][-1]
    assert (trace.segment, len(trace.canvases)) == (final.segment, final.timings.steps)
    assert trace.canvases[-1] == final.text


async def test_two_sessions_at_once_get_their_own_text(services: Services) -> None:
    recordings = {
        "a": pcm16(silence(0.3), vowel(1.5, 100), silence(0.7)),
        "b": pcm16(silence(0.3), 0.3 * vowel(2.1, 200), silence(0.7)),
    }
    alone: dict[str, list[str]] = {}
    together: dict[str, list[str]] = {}
    for name, recording in recordings.items():
        peer = MemoryPeer()
        peer.say(Start(), recording, Stop())
        await serve(peer, services, name)
        alone[name] = [final.text for final in peer.of(Final) if isinstance(final, Final)]
    peers = {name: MemoryPeer() for name in recordings}
    for name, peer in peers.items():
        peer.say(Start(), recordings[name], Stop())
    await asyncio.gather(*(serve(peer, services, name) for name, peer in peers.items()))
    for name, peer in peers.items():
        together[name] = [final.text for final in peer.of(Final) if isinstance(final, Final)]
    assert together == alone
    assert alone["a"] != alone["b"]


async def test_one_that_vanishes_disturbs_no_other_and_leaves_nothing(services: Services) -> None:
    lasting, vanishing = MemoryPeer(), MemoryPeer()
    vanishing.say(Start(), WORD[: len(WORD) // 2])
    lasting.say(Start(), WORD)
    both = [
        asyncio.create_task(serve(lasting, services, "lasting")),
        asyncio.create_task(serve(vanishing, services, "vanishing")),
    ]
    await vanishing.wait_for(SpeechStarted)
    vanishing.say(None)
    await both[1]
    lasting.say(WORD, Stop())
    await both[0]
    assert len(lasting.of(Final)) == 2
    assert not vanishing.of(Final)
    assert 'outcome="disconnected"} 1.0' in services.metrics.render().decode()


async def test_the_engine_is_told_when_a_client_vanishes(services: Services) -> None:
    engine = ScriptedEngine()
    peer = MemoryPeer()
    peer.say(Start(), WORD)
    running = asyncio.create_task(serve(peer, replace(services, engine=engine), "gone"))
    await peer.wait_for(SpeechEnded)
    peer.say(None)
    await running
    assert engine.cancelled[-1] == ("gone", None)
    ((request, reply),) = engine.finals()
    reply(Failed(request, RecognitionFailed("too late")))  # harmless
    await asyncio.sleep(0)
    assert not peer.of(Error)


async def test_cancelling_a_session_takes_its_requests_back(services: Services) -> None:
    engine = ScriptedEngine()
    peer = MemoryPeer()
    peer.say(Start(), WORD)
    running = asyncio.create_task(run_session(peer, replace(services, engine=engine), "s"))
    await peer.wait_for(SpeechEnded)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.cancelled[-1] == ("s", None)


async def test_a_segment_that_fails_is_told_and_the_session_goes_on(services: Services) -> None:
    engine = ScriptedEngine()
    peer = MemoryPeer()
    peer.say(Start(partial_interval_ms=0), WORD, Stop())
    running = asyncio.create_task(serve(peer, replace(services, engine=engine)))
    await peer.wait_for(SpeechEnded)
    ((request, reply),) = engine.finals()
    reply(Failed(request, RecognitionFailed("the model raised")))
    await running
    (error,) = peer.of(Error)
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("recognition_failed", False)
    assert len(peer.of(Final)) == 1
    assert isinstance(peer.messages[-1], Done)
    assert 'diffscribe_errors_total{code="recognition_failed"} 1.0' in (
        services.metrics.render().decode()
    )


async def test_a_final_is_begun_in_the_pause_and_promoted_at_its_end(services: Services) -> None:
    engine = ScriptedEngine()
    peer = MemoryPeer()
    peer.say(Start(partial_interval_ms=0), pcm16(silence(0.3), vowel(0.8), silence(0.34)))
    running = asyncio.create_task(serve(peer, replace(services, engine=engine)))
    async with asyncio.timeout(10):
        await engine.took.wait()
    ((request, _),) = engine.submitted
    assert not request.is_final
    assert request.utterance.steps == 4
    assert not peer.of(SpeechEnded)
    peer.say(pcm16(silence(0.4)), Stop())
    await peer.wait_for(SpeechEnded)
    ((promoted, reply),) = engine.finals()
    assert promoted == replace(request, is_final=True)
    reply(Failed(promoted, RecognitionFailed("the model raised")))
    await running
    assert len(peer.of(Final)) == 1
    assert isinstance(peer.messages[-1], Done)


async def test_a_full_engine_delays_finals_and_drops_only_partials(services: Services) -> None:
    engine = ScriptedEngine()
    engine.refusal = Overloaded("full")
    peer = MemoryPeer()
    peer.say(Start(partial_interval_ms=100), WORD, Stop())
    running = asyncio.create_task(serve(peer, replace(services, engine=engine)))
    await peer.wait_for(SpeechEnded)
    engine.refusal = None
    await engine.took_final.wait()
    ((request, reply),) = engine.finals()
    reply(Failed(request, RecognitionFailed("x")))
    await running
    assert len(peer.of(Final)) == 1
    assert peer.closed == (1000, "done")


async def test_an_engine_that_stopped_fails_the_segment_only(services: Services) -> None:
    engine = ScriptedEngine()
    engine.refusal = Draining("stopping")
    peer = MemoryPeer()
    peer.say(Start(), WORD, Stop())
    await serve(peer, replace(services, engine=engine))
    (error,) = peer.of(Error)
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("draining", False)
    assert isinstance(peer.messages[-1], Done)


async def test_reading_pauses_while_finals_wait(services: Services) -> None:
    engine = ScriptedEngine()
    limits = LimitsConfig(max_unprocessed_ms=1000)
    peer = MemoryPeer()
    peer.say(Start(endpointing=Endpointing(silence_ms=200)), *[WORD] * 30, Stop())
    total = peer.incoming.qsize()
    quiet = replace(services, engine=engine, limits=limits)
    running = asyncio.create_task(serve(peer, quiet))
    await peer.wait_for(SpeechEnded, 5)
    await asyncio.sleep(0.05)
    assert peer.reads < total // 2
    answered = 0
    while not running.done():
        for request, reply in engine.submitted[answered:]:
            answered += 1
            reply(Failed(request, RecognitionFailed("x")))
        await asyncio.sleep(0.005)
    await running
    assert [final.segment for final in peer.of(Final) if isinstance(final, Final)] == list(
        range(30)
    )


async def test_a_client_that_takes_nothing_stops_the_reading(services: Services) -> None:
    limits = LimitsConfig(max_unprocessed_ms=500)
    peer = MemoryPeer()
    peer.may_take.clear()
    flushes = [Flush(id=str(number)) for number in range(2000)]
    peer.say(Start(), *flushes, Stop())
    running = asyncio.create_task(serve(peer, replace(services, limits=limits)))
    await asyncio.sleep(0.05)
    assert peer.reads < 1000
    peer.may_take.set()
    await running
    answers = [each.id for each in peer.of(Flushed) if isinstance(each, Flushed)]
    assert answers == [flush.id for flush in flushes]


async def test_flush_is_always_answered(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(), Flush(id="empty"), pcm16(silence(0.5)), Flush(id="silent"))
    peer.say(pcm16(silence(0.2), vowel(0.8)), Flush(id="speech"), Flush(id="again"), Stop())
    await serve(peer, services)
    kinds = [each for each in peer.messages if isinstance(each, Final | Flushed | Done)]
    assert [each.id if isinstance(each, Flushed) else type(each).__name__ for each in kinds] == [
        "empty",
        "silent",
        "Final",
        "speech",
        "again",
        "Done",
    ]


async def test_a_minute_of_silence_gives_no_text(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(), pcm16(silence(60)), Stop())
    await serve(peer, services)
    assert not [each for each in peer.messages if not isinstance(each, Ready | Ack | Done)]
    assert peer.messages[-1] == Done(60 * RATE, 0)


async def test_partials_come_while_speech_runs(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(partial_interval_ms=200))
    running = asyncio.create_task(serve(peer, services))
    speech = pcm16(silence(0.2), vowel(3.0))
    for start in range(0, len(speech), 12_800):
        peer.say(speech[start : start + 12_800])
        await asyncio.sleep(0.02)
    await peer.wait_for(Partial)
    peer.say(Stop())
    await running
    partials = [each for each in peer.messages if isinstance(each, Partial)]
    (final,) = peer.of(Final)
    assert isinstance(final, Final)
    stable = ""
    for each in partials:
        assert each.stable.startswith(stable)
        stable = each.stable
    assert final.text.startswith(stable)
    assert "diffscribe_first_partial_seconds_count 1.0" in services.metrics.render().decode()


@pytest.mark.parametrize(
    ("items", "code", "close"),
    [
        ([b"\0\0"], "wrong_state", 1002),
        ([Flush()], "wrong_state", 1002),
        ([Start(steps=99)], "invalid_field", 1008),
        ([RemoteProtocolError("bad_message", "not JSON")], "bad_message", 1002),
        ([Start(), Start()], "wrong_state", 1002),
        ([Start(), Configure(partial_interval_ms=1)], "invalid_field", 1008),
        ([Start(), RemoteProtocolError("too_large", "big", close_code=1009)], "too_large", 1009),
        ([Start(), b"OggS" + bytes(40) + bytes(range(256)) * 4, Stop()], "bad_audio", 1007),
        (
            [Start(encoding="pcm_f32le"), np.full(4000, np.nan, "<f4").tobytes(), Stop()],
            "bad_audio",
            1007,
        ),
        ([Start(), b"\0\0\0", Stop()], "bad_audio", 1007),
        ([Start(encoding="webm"), b"not webm at all" * 100, Stop()], "bad_audio", 1007),
        ([Start(), ValueError("a defect")], "internal", 1011),
    ],
)
async def test_hostile_input_gets_its_answer(
    services: Services, items: list[ClientMessage | bytes | Exception], code: str, close: int
) -> None:
    peer = MemoryPeer()
    peer.say(*items)
    await serve(peer, services)
    error = peer.messages[-1]
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == (code, True)
    assert peer.closed is not None
    assert peer.closed[0] == close
    assert "defect" not in error.message


async def test_bad_audio_after_speech_costs_only_what_follows_it(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(), WORD[: len(WORD) // 2], b"\0", Stop())
    await serve(peer, services)
    assert [type(each) for each in peer.messages[-2:]] == [Final, Error]


@pytest.mark.parametrize("rate", [16_000, 8_000], ids=["as it is", "resampled"])
async def test_audio_after_stop_is_refused(services: Services, rate) -> None:
    engine = ScriptedEngine()
    peer = MemoryPeer()
    peer.say(Start(sample_rate=rate), WORD, Stop(), WORD)
    await serve(peer, replace(services, engine=engine))
    error = peer.messages[-1]
    assert isinstance(error, Error)
    assert error.code == "wrong_state"


async def test_a_silent_client_is_closed(services: Services) -> None:
    limits = LimitsConfig(idle_timeout_ms=30)
    for items in ([], [Start()]):
        peer = MemoryPeer()
        peer.say(*items)
        await serve(peer, replace(services, limits=limits))
        error = peer.messages[-1]
        assert isinstance(error, Error)
        assert (error.code, error.fatal, error.retryable) == ("timeout", True, True)


async def test_a_client_that_leaves_before_it_starts(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(None)
    await serve(peer, services)
    assert peer.messages == []


async def test_draining_is_told_once_and_new_sessions_are_refused(services: Services) -> None:
    assert services.draining is not None
    running, late = MemoryPeer(), MemoryPeer()
    running.say(Start())
    task = asyncio.create_task(serve(running, services, "running"))
    await running.wait_for(Ready)
    services.draining.set()
    await running.wait_for(Notice)
    late.say(Start())
    await serve(late, services, "late")
    (error,) = late.messages
    assert isinstance(error, Error)
    assert error.code == "draining"
    assert late.closed == (1012, "draining")
    running.say(WORD, Stop())
    await task
    assert len(running.of(Final)) == 1
    notices = [each.code for each in running.messages if isinstance(each, Notice)]
    assert notices == ["draining"]


async def test_a_send_that_fails_ends_the_session(services: Services) -> None:
    class Broken(MemoryPeer):
        async def send(self, message: ServerMessage) -> None:
            raise ConnectionError("gone")

    peer = Broken()
    peer.say(Start(), WORD)
    await serve(peer, services)
    assert 'outcome="disconnected"} 1.0' in services.metrics.render().decode()


async def test_the_audio_quota_is_an_error_after_the_finals(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(), *[WORD] * 5)
    limits = LimitsConfig(max_session_ms=1900)
    await serve(peer, replace(services, limits=limits))
    assert len(peer.of(Final)) == 1
    error = peer.messages[-1]
    assert isinstance(error, Error)
    assert error.code == "limit"

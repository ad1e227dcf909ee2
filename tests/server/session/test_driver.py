"""Whole sessions over a peer in memory, with the real engine and a fake recogniser."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    Done,
    Endpointing,
    Error,
    Final,
    Flush,
    Flushed,
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
)
from stream_server.errors import Draining, Overloaded, RecognitionFailed
from stream_server.scheduler.request import Failed
from stream_server.session.driver import Services, run_session
from tests.server.session.driven import (
    RATE,
    WORD,
    MemoryPeer,
    ScriptedEngine,
    pcm16,
    serve,
    silence,
    vowel,
)


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

"""How sessions end: hostile input, silence, limits, clients that vanish, a drain."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    ClientMessage,
    Configure,
    Error,
    Final,
    Flush,
    Notice,
    Ready,
    ServerMessage,
    Start,
    Stop,
)
from stream_server.config import (
    LimitsConfig,
)
from stream_server.errors import LimitReached
from stream_server.session.driver import Services, run_session
from tests.server.session.driven import (
    RATE,
    WORD,
    MemoryPeer,
    ScriptedEngine,
    serve,
)


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


async def test_a_client_that_takes_nothing_for_long_is_closed_with_a_reason(
    services: Services,
) -> None:
    limits = LimitsConfig(send_timeout_ms=100)
    peer = MemoryPeer()
    peer.may_take.clear()
    peer.say(Start(), WORD)
    began = asyncio.get_running_loop().time()
    await serve(peer, replace(services, limits=limits))
    assert peer.closed == (1013, "timeout")
    assert asyncio.get_running_loop().time() - began < 2, "it is not waited for again"
    assert 'outcome="failed"} 1.0' in services.metrics.render().decode()


async def test_a_session_may_be_open_for_only_so_long(services: Services) -> None:
    peer = MemoryPeer()
    peer.say(Start(), WORD)
    await serve(peer, replace(services, limits=LimitsConfig(max_open_ms=300)))
    error = peer.messages[-1]
    assert isinstance(error, Error)
    assert (error.code, error.fatal, error.retryable) == ("limit", True, True)
    assert len(peer.of(Final)) == 1, "what was said before is there"


async def test_the_meter_ends_a_session_after_the_finals(services: Services) -> None:
    heard = 0

    def meter(samples: int) -> None:
        nonlocal heard
        heard += samples
        if heard > 2 * RATE:
            raise LimitReached("enough for today")

    peer = MemoryPeer()
    peer.say(Start(), WORD)
    running = asyncio.create_task(run_session(peer, services, "s", meter))
    await peer.wait_for(Final)
    peer.say(WORD)
    async with asyncio.timeout(10):
        await running
    error = peer.messages[-1]
    assert isinstance(error, Error)
    assert (error.code, error.message) == ("limit", "enough for today")


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

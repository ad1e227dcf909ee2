"""Where audio goes; meetings on real streams are in test_meeting.py."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from stream_client.client import connect
from stream_client.errors import StreamBroken
from stream_client.outlets import MIX_AHEAD, MIX_DELAY, Mix, OwnStream
from stream_client.timeline import Placement

SECOND = 16_000


def audio(samples, level=1000):
    return np.full(samples, level, "<i2").tobytes()


def placed(at):
    placement = Placement()
    placement.place(0, at)
    return placement


async def pumped(mix, stream, now):
    """Pump until what can be sent has been."""
    task = asyncio.create_task(mix.pump(stream, now))
    await asyncio.sleep(0.15)
    return task


async def test_a_stream_of_ones_own(serving, speaking_server):
    async with (
        serving(speaking_server(idle_timeout_ms=30_000)) as server,
        connect(server.url) as stream,
    ):
        reading = asyncio.create_task(asyncio.sleep(0))
        outlet = OwnStream(stream, reading)
        assert (outlet.position, outlet.patience) == (0, 10.0)
        await outlet.write(audio(1600))
        await outlet.pause()
        await outlet.finish()
        assert outlet.position == 1600
        kinds = [type(message).__name__ async for message in stream]
        await reading
    assert kinds[-2:] == ["Flushed", "Done"]


async def test_a_server_that_never_loses_patience(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url) as stream:
        reading = asyncio.create_task(asyncio.sleep(0))
        assert OwnStream(stream, reading).patience == float("inf")
        await reading


async def test_a_mix_goes_as_far_as_the_slowest_recording(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url) as stream:
        mix = Mix(SECOND)
        one = mix.open(0, placed(SECOND), SECOND)
        other = mix.open(1, placed(SECOND), SECOND)
        await one.write(audio(3200, 1))
        await other.write(audio(1600, 2))
        task = await pumped(mix, stream, lambda: 0)
        assert mix.down.cursor == SECOND + 1600
        await other.finish()
        await asyncio.sleep(0.15)
        assert mix.down.cursor == SECOND + 3200
        mix.end()
        await task
        async for _ in stream:
            pass
    assert bytes(server.heard[0].audio) == audio(1600, 3) + audio(1600, 1)


async def test_a_live_mix_lags_a_little(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url) as stream:
        mix = Mix()
        mix.open(0, Placement(), None)
        task = await pumped(mix, stream, lambda: SECOND)
        assert mix.down.cursor == SECOND - MIX_DELAY
        mix.end()
        await task


async def test_audio_that_came_late_follows_what_came_before():
    mix, placement = Mix(), Placement()
    track = mix.open(3, placement, None)
    placement.place_live(0, 1600, SECOND)
    await track.write(audio(1600, 1))
    # The next two pieces come at once: the first was late by as much.
    placement.place_live(1600, 1600, SECOND)
    await track.write(audio(1600, 2))
    assert mix.down.take(SECOND + 1600)[2 * (SECOND - 1600) :] == audio(1600, 1) + audio(1600, 2)
    assert mix.members == [3]


async def test_a_mix_without_a_stream_lets_nobody_wait():
    mix = Mix()
    track = mix.open(0, placed(0), 0)
    waiting = asyncio.create_task(track.write(audio(MIX_AHEAD + 1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await mix.give_up()
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(StreamBroken):
        await track.write(audio(1))

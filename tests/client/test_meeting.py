"""Participants on streams of their own, or in one mix, against a small real server."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from stream_client.client import Reconnect
from stream_client.errors import ServerRefused, StreamBroken
from stream_client.meeting import Meeting
from stream_client.outlets import MIX_AHEAD, MIX_DELAY
from stream_protocol.errors import LocalProtocolError
from stream_protocol.messages import Error, Flush, Start

README = Path(__file__).parents[2] / "client/README.md"
SECOND = 16_000
QUICK = Reconnect(first_delay=0.001, max_delay=0.002)
REFUSED = Error("overloaded", "full", None, True, True)


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def audio(samples, level=1000):
    return np.full(samples, level, "<i2").tobytes()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def read_all(meeting):
    async with asyncio.timeout(10):
        return [update async for update in meeting]


def lines(meeting):
    return [(each.speaker, each.text, each.start, each.end) for each in meeting.timeline.utterances]


async def test_recordings_are_merged_on_one_clock(serving, speaking_server):
    async with serving(speaking_server()) as server, Meeting(server.url) as meeting:
        anna = await meeting.add("Anna", at=0)
        ben = await meeting.add("Ben", at=SECOND)
        await ben.send(audio(4800))
        await anna.send(audio(9600))
        await meeting.end()
        updates = await read_all(meeting)
    assert lines(meeting) == [
        ("Anna", "0-4800", 0, 4800),
        ("Anna", "4800-9600", 4800, 9600),
        ("Ben", "0-4800", SECOND, SECOND + 4800),
    ]
    assert sum(update.is_final for update in updates) == 3
    assert meeting.failures == []
    assert all(heard.start.words for heard in server.heard)


async def test_who_comes_late_and_mutes_is_on_the_same_clock(serving, speaking_server):
    clock = Clock()
    async with (
        serving(speaking_server()) as server,
        Meeting(server.url, clock=clock) as meeting,
    ):
        clock.seconds += 5
        anna = await meeting.add("Anna")
        clock.seconds += 0.3
        await anna.send(audio(4800))
        clock.seconds += 60  # muted
        await anna.send(audio(4800))
        await meeting.end()
        await read_all(meeting)
    assert [start for _, _, start, _ in lines(meeting)] == [5 * SECOND, 65 * SECOND]
    [heard] = server.heard
    assert len(heard.audio) == 2 * 9600, "a pause is not sent"
    assert [at for at, message in heard.controls if isinstance(message, Flush)] == [9600]


async def test_what_somebody_said_is_finalised_when_nothing_more_comes(serving, speaking_server):
    clock = Clock()
    server = speaking_server(segment_samples=1 << 30)
    async with serving(server), Meeting(server.url, clock=clock) as meeting:
        anna = await meeting.add("Anna")
        clock.seconds += 0.1
        await anna.send(audio(1600))
        clock.seconds += 1.1
        await until(lambda: meeting.timeline.utterances)
        clock.seconds += 5
        await asyncio.sleep(0.3)
        assert len(server.heard[0].controls) == 1, "once a pause"


async def test_time_stamps_of_a_track_are_better_than_arrival(serving, speaking_server):
    clock = Clock()
    async with serving(speaking_server()) as server, Meeting(server.url, clock=clock) as meeting:
        anna = await meeting.add("Anna")
        await anna.send(audio(4800), at=2 * SECOND)
        clock.seconds += 40
        await anna.send(audio(4480), at=2 * SECOND + 4800 + 320)
        await meeting.end()
        await read_all(meeting)
    assert [start for _, _, start, _ in lines(meeting)] == [2 * SECOND, 2 * SECOND + 4800]
    assert bytes(server.heard[0].audio) == audio(4800) + bytes(640) + audio(4480)


async def test_an_idle_stream_is_kept_open(serving, speaking_server):
    clock = Clock()
    async with (
        serving(speaking_server(idle_timeout_ms=60_000)) as server,
        Meeting(server.url, clock=clock) as meeting,
    ):
        await meeting.add("Anna")
        clock.seconds += 19
        await asyncio.sleep(0.25)
        assert server.heard[0].controls == []
        clock.seconds += 2
        await until(lambda: server.heard[0].controls)


async def test_a_break_changes_nothing(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[7, 5])) as server,
        Meeting(server.url, reconnect=QUICK) as meeting,
    ):
        anna = await meeting.add("Anna", at=3 * SECOND)
        for _ in range(6):
            await anna.send(audio(4800))
            await asyncio.sleep(0.02)
        await meeting.end()
        await read_all(meeting)
    assert server.dropped == 2
    spans = [(start, end) for _, _, start, end in lines(meeting)]
    assert spans == [(3 * SECOND + 4800 * n, 3 * SECOND + 4800 * (n + 1)) for n in range(6)]


async def test_one_stream_that_fails_does_not_end_the_meeting(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[4])) as server,
        Meeting(server.url, reconnect=None) as meeting,
    ):
        anna = await meeting.add("Anna", at=0)
        ben = await meeting.add("Ben", at=0)
        await anna.send(audio(4800))
        await until(lambda: meeting.failures)
        with pytest.raises(StreamBroken):
            await anna.send(audio(4800))
        await ben.send(audio(4800))
        await meeting.end()
        await read_all(meeting)
    assert "Ben" in {each.speaker for each in meeting.timeline.utterances}
    [failure] = meeting.failures
    assert failure.speaker == "Anna"
    assert isinstance(failure.error, StreamBroken)


async def test_who_is_refused_is_not_in(serving, speaking_server):
    async with serving(speaking_server(refuse=[REFUSED])) as server, Meeting(server.url) as meeting:
        with pytest.raises(ServerRefused):
            await meeting.add("Anna")
        assert meeting.timeline.speakers == ()
        await meeting.add("Ben")
        assert meeting.timeline.speakers == ("Ben",)


async def test_calls_out_of_order_are_refused(serving, speaking_server):
    async with serving(speaking_server()) as server, Meeting(server.url) as meeting:
        anna = await meeting.add("Anna")
        await anna.leave()
        await anna.leave()
        with pytest.raises(LocalProtocolError, match="Anna has left"):
            await anna.send(audio(10))
        await meeting.end()
        with pytest.raises(LocalProtocolError, match="ended"):
            await meeting.add("Ben")


def test_only_one_kind_of_audio_is_taken():
    with pytest.raises(ValueError, match="16 kHz"):
        Meeting("ws://127.0.0.1:9/v1/stream", Start(sample_rate=8000))


async def test_a_meeting_that_is_left_early_leaves_no_task(serving, speaking_server):
    before = asyncio.all_tasks()
    async with serving(speaking_server()) as server:
        async with Meeting(server.url) as meeting:
            anna = await meeting.add("Anna")
            await anna.send(audio(4800))
        await until(lambda: len(asyncio.all_tasks() - before) <= 2)  # the server's own


async def test_the_example_of_the_page_runs(serving, speaking_server, capsys):
    [example] = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
        if "Meeting(" in block
    ]
    async with serving(speaking_server()) as server:
        names = {"pcm": audio(4800)}
        body = textwrap.indent(example, "    ")
        url = "ws://127.0.0.1:8000/v1/stream"
        exec(f"async def run():\n{body}".replace(url, server.url), names)
        async with asyncio.timeout(10):
            await names["run"]()
    shown = capsys.readouterr().out
    assert "Anna 0-4800 True" in shown
    assert "**Ben** (00:00:00): 0-4800" in shown


# --- in one mix -------------------------------------------------------------------------------


async def test_a_mix_is_one_stream_and_the_loudest_speaks(serving, speaking_server):
    async with serving(speaking_server()) as server, Meeting(server.url, mixed="always") as meeting:
        anna = await meeting.add("Anna", at=0)
        ben = await meeting.add("Ben", at=4800)
        await anna.send(audio(9600, 100))
        await ben.send(audio(9600, 2000))
        await anna.leave()
        await ben.leave()
        await meeting.end()
        await read_all(meeting)
    assert [(speaker, start) for speaker, _, start, _ in lines(meeting)] == [
        ("Anna", 0),
        ("Ben", 4800),
        ("Ben", 9600),
    ]
    [heard] = server.heard
    assert bytes(heard.audio) == audio(4800, 100) + audio(4800, 2100) + audio(4800, 2000)


async def test_a_live_mix_goes_on_in_silence(serving, speaking_server):
    clock = Clock()
    async with (
        serving(speaking_server()) as server,
        Meeting(server.url, mixed="always", clock=clock) as meeting,
    ):
        anna = await meeting.add("Anna")
        clock.seconds += 1
        await anna.send(audio(1600))
        clock.seconds += 1
        await until(lambda: len(server.heard[0].audio) >= 2 * 28_000)
        assert bytes(server.heard[0].audio[: 2 * SECOND]) == bytes(2 * 14_400) + audio(1600)
        await meeting.end()
        await read_all(meeting)


async def test_a_recording_waits_for_the_others_in_a_mix(serving, speaking_server):
    async with serving(speaking_server()) as server, Meeting(server.url, mixed="always") as meeting:
        anna, ben = await meeting.add("Anna", at=0), await meeting.add("Ben", at=0)
        ahead = asyncio.create_task(anna.send(audio(MIX_AHEAD + 1600)))
        await asyncio.sleep(0.25)
        assert not ahead.done()
        await ben.send(audio(3200))
        async with asyncio.timeout(5):
            await ahead
        await meeting.end()
        await read_all(meeting)


async def test_a_mix_that_breaks_is_a_failure_of_all(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[3])) as server,
        Meeting(server.url, mixed="always", reconnect=None) as meeting,
    ):
        anna = await meeting.add("Anna", at=0)
        await anna.send(audio(MIX_AHEAD + 1600))
        await meeting.end()
        await read_all(meeting)
    [failure] = meeting.failures
    assert failure.speaker == "Anna"


# --- where the server is full ---------------------------------------------------------------------


async def test_who_finds_no_place_shares_one(serving, speaking_server):
    async with (
        serving(speaking_server(places=2)) as server,
        Meeting(server.url, mixed="full") as meeting,
    ):
        anna, ben = await meeting.add("Anna", at=0), await meeting.add("Ben", at=0)
        for each in (anna, ben):
            await each.send(audio(4800, 100))
        cem = await meeting.add("Cem", at=4800)
        dora = await meeting.add("Dora", at=9600)
        await ben.send(audio(4800, 100))  # from 4800 on, as Cem
        await cem.send(audio(4800, 2000))
        await dora.send(audio(4800, 50))
        await anna.send(audio(4800, 100))
        await meeting.end()
        await read_all(meeting)
    assert meeting.failures == []
    assert [(speaker, start) for speaker, _, start, _ in lines(meeting)] == [
        ("Anna", 0),
        ("Ben", 0),
        ("Anna", 4800),
        ("Cem", 4800),
        ("Dora", 9600),
    ]
    assert [len(heard.audio) // 2 for heard in server.heard] == [9600, 4800, 9600]


async def test_live_audio_goes_on_in_the_shared_stream(serving, speaking_server):
    clock = Clock()
    async with (
        serving(speaking_server(places=1)) as server,
        Meeting(server.url, mixed="full", clock=clock) as meeting,
    ):
        anna = await meeting.add("Anna")
        clock.seconds += 1
        await anna.send(audio(SECOND))
        ben = await meeting.add("Ben")
        clock.seconds += 0.5
        await anna.send(audio(8000, 100))
        await ben.send(audio(4000, 3000))
        await meeting.end()
        await read_all(meeting)
    assert meeting.failures == []
    own, shared = server.heard
    assert bytes(own.audio) == audio(SECOND)
    silence = bytes(2 * MIX_DELAY)
    assert bytes(shared.audio) == silence + audio(4000, 100) + audio(4000, 3100)
    assert {(each.speaker, each.start // 8000) for each in meeting.timeline.utterances} >= {
        ("Anna", 0),
        ("Ben", 2),
    }


async def test_who_shares_late_shares_no_silence_from_before(serving, speaking_server):
    clock = Clock()
    async with (
        serving(speaking_server(places=1)) as server,
        Meeting(server.url, mixed="full", clock=clock) as meeting,
    ):
        await meeting.add("Anna")
        clock.seconds += 3600
        await meeting.add("Ben")
        await meeting.end()
        await read_all(meeting)
    assert len(server.heard[1].audio) <= 2 * MIX_DELAY


async def test_a_place_that_is_taken_meanwhile_is_a_failure(serving, speaking_server, monkeypatch):
    monkeypatch.setattr("stream_client.meeting._PLACE_TRIES", 2)
    async with (
        serving(speaking_server(places=1)) as server,
        Meeting(server.url, mixed="full") as meeting,
    ):
        anna = await meeting.add("Anna", at=0)
        server.places = 0
        with pytest.raises(ServerRefused):
            await meeting.add("Ben", at=0)
        [failure] = meeting.failures
        assert failure.speaker == "Anna"
        with pytest.raises(StreamBroken):
            await anna.send(audio(10))


async def test_a_server_that_is_full_of_others_is_a_refusal(serving, speaking_server):
    async with (
        serving(speaking_server(places=0)) as server,
        Meeting(server.url, mixed="full") as meeting,
    ):
        with pytest.raises(ServerRefused):
            await meeting.add("Anna")
    async with (
        serving(speaking_server(places=1)) as server,
        Meeting(server.url) as meeting,
    ):
        await meeting.add("Anna")
        with pytest.raises(ServerRefused):
            await meeting.add("Ben")

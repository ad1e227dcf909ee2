"""Three people who sometimes speak at once, in a meeting of the client library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stream_client.client import Reconnect
from stream_client.meeting import Meeting
from stream_client.minutes import render_minutes
from stream_protocol.messages import Start
from stream_server.config import LimitsConfig

RATE = 16_000
STEP = 3200
"""Bytes of 100 ms."""


def address(server: Any) -> str:
    return server.url.replace("http", "ws", 1) + "/v1/stream"


async def play(meeting: Meeting, tracks: dict[str, bytes], late: int = 0) -> None:
    """Send each track at once, as recordings; then end the meeting."""

    async def one(name: str, track: bytes) -> None:
        participant = await meeting.add(name, at=late)
        for at in range(2 * late, len(track), 10 * STEP):
            await participant.send(track[at : at + 10 * STEP])

    async with asyncio.TaskGroup() as tasks:
        for name, track in tracks.items():
            tasks.create_task(one(name, track))
    await meeting.end()


def check(meeting: Meeting, conversation: Any, alone: dict[str, str], slack: int) -> None:
    """Check that everybody said their own words, at their time, as well as in a single stream."""
    assert meeting.failures == []
    said = meeting.timeline.utterances
    assert {each.speaker for each in said} == set(conversation.tracks)
    for each in said:
        conversation.check_speaker(each.speaker, each.start / RATE, each.end / RATE)
    for name in conversation.tracks:
        text = " ".join(each.text for each in said if each.speaker == name)
        allowed = conversation.errors(name, alone[name]) + slack
        assert conversation.errors(name, text) <= allowed, (name, text, alone[name])


@pytest.mark.model
@pytest.mark.speech
async def test_over_websocket_words_are_those_of_single_streams(
    hearing, conversation, alone
) -> None:
    start = Start(words=True, language="en", partial_interval_ms=0)
    async with Meeting(address(hearing), start) as meeting:
        playing = asyncio.create_task(play(meeting, conversation.tracks))
        updates = [update async for update in meeting]
        await playing
    check(meeting, conversation, alone, slack=0)
    assert len(updates) == len(meeting.timeline.utterances)
    vtt = render_minutes(meeting.timeline, "vtt")
    assert all(f"<v {name}>" in vtt for name in conversation.tracks)
    minutes = json.loads(render_minutes(meeting.timeline, "json"))
    assert minutes["speakers"] == list(meeting.timeline.speakers)


@pytest.mark.model
@pytest.mark.speech
async def test_live_with_mutes_and_somebody_who_comes_late(hearing, conversation, alone) -> None:
    """At the pace of speech; nobody sends silence, and somebody comes when they first speak."""
    async with Meeting(address(hearing), Start(words=True, language="en")) as meeting:

        async def one(name: str) -> None:
            track, participant = conversation.tracks[name], None
            turns = [turn for turn in conversation.turns if turn.speaker == name]
            for at in range(0, len(track), STEP):
                await asyncio.sleep(max(0.0, (at + STEP) / 2 / RATE - meeting.seconds))
                near = [t for t in turns if t.start - RATE / 4 <= at / 2 <= t.end + RATE / 4]
                if near:
                    participant = participant or await meeting.add(name)
                    await participant.send(track[at : at + STEP])

        async def everybody() -> None:
            await asyncio.gather(*map(one, conversation.tracks))
            await meeting.end()

        playing = asyncio.create_task(everybody())
        updates = [update async for update in meeting]
        await playing
    check(meeting, conversation, alone, slack=1)
    for turn in conversation.turns:
        own = [each for each in meeting.timeline.utterances if each.speaker == turn.speaker]
        nearest = min(abs(each.words[0].start - turn.start) for each in own if each.words)
        assert nearest < RATE, f"{turn} has no utterance of its time"
    # A busy machine leaves partials out, but not all of them.
    assert [each for each in updates if not each.is_final]


async def test_a_full_server_is_shared(running, voice) -> None:
    with running(LimitsConfig(max_sessions=2)) as server:
        async with Meeting(address(server), mixed="full") as meeting:
            reading = asyncio.create_task(drain(meeting))
            people = [await meeting.add(name, at=0) for name in ("Anna", "Ben", "Cem")]
            # One after the other, so that who is loudest is who speaks.
            for place, person in enumerate(people):
                await person.send(bytes(place * len(voice())) + voice())
            await meeting.end()
            async with asyncio.timeout(20):
                await reading
        assert meeting.failures == []
        said = [each.speaker for each in meeting.timeline.utterances]
        assert sorted(set(said)) == ["Anna", "Ben", "Cem"]


async def drain(meeting: Meeting) -> None:
    async for _ in meeting:
        pass


class Wire:
    """A connection to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.url = ""

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._copy(reader, back), self._copy(onward, writer))

    def cut(self) -> None:
        """Pull the cable, for everybody."""
        self.cuts += 1
        for writer in tuple(self._open):
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Wire]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/stream"
        async with listener:
            yield self
            self.cut()


@pytest.mark.model
@pytest.mark.speech
async def test_breaks_change_neither_words_nor_clock(hearing, conversation, alone) -> None:
    start = Start(words=True, language="en", partial_interval_ms=0)
    quick = Reconnect(first_delay=0.01, max_delay=0.1)
    async with (
        Wire(hearing.port).open() as wire,
        Meeting(wire.url, start, reconnect=quick) as meeting,
    ):

        async def cut() -> None:
            for second in (2, 6, 11):
                await asyncio.sleep(max(0.0, second - meeting.seconds))
                wire.cut()

        async def one(name: str, track: bytes) -> None:
            participant = await meeting.add(name, at=0)
            for at in range(0, len(track), STEP):
                await asyncio.sleep(max(0.0, at / 2 / RATE - meeting.seconds))
                await participant.send(track[at : at + STEP])

        async def everybody() -> None:
            each = [one(name, track) for name, track in conversation.tracks.items()]
            await asyncio.gather(cut(), *each)
            await meeting.end()

        playing = asyncio.create_task(everybody())
        async for _ in meeting:
            pass
        await playing
    assert wire.cuts == 4
    check(meeting, conversation, alone, slack=0)


@pytest.mark.model
@pytest.mark.speech
async def test_mixed_down_the_loudest_is_who_speaks(hearing, conversation) -> None:
    start = Start(words=True, language="en", partial_interval_ms=0)
    async with Meeting(address(hearing), start, mixed="always") as meeting:
        playing = asyncio.create_task(play(meeting, conversation.tracks))
        async for _ in meeting:
            pass
        await playing
    said = meeting.timeline.utterances
    assert {each.speaker for each in said} == set(conversation.tracks)
    # Where two speak at once their words are lost in each other; the rest has its speaker.
    words = [(each.speaker, word) for each in said for word in each.words]
    right = 0
    for speaker, word in words:
        middle = (word.start + word.end) / 2
        own = [t for t in conversation.turns if t.speaker == speaker]
        right += any(t.start - RATE / 5 <= middle <= t.end + RATE / 5 for t in own)
    assert len(words) > 10
    assert right >= 0.9 * len(words), f"{right} of {len(words)}"

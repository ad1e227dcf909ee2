"""The wyoming package's client, as Home Assistant uses it."""

from __future__ import annotations

import asyncio
import time

import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

FORMAT = {"rate": 16_000, "width": 2, "channels": 1}


async def transcribe(client: AsyncClient, audio: bytes) -> tuple[str, str]:
    """Return the transcript and its chunks put together."""
    await client.write_event(Transcribe(language="en").event())
    await client.write_event(AudioStart(**FORMAT).event())
    for at in range(0, len(audio), 2048):
        await client.write_event(AudioChunk(**FORMAT, audio=audio[at : at + 2048]).event())
    await client.write_event(AudioStop().event())
    chunks, text, kinds = "", "", []
    async with asyncio.timeout(20):
        while not kinds or kinds[-1] is not TranscriptStop:
            event = await client.read_event()
            assert event is not None
            for kind in (Transcript, TranscriptChunk, TranscriptStart, TranscriptStop):
                if kind.is_type(event.type):
                    kinds.append(kind)
            if Transcript.is_type(event.type):
                text = Transcript.from_event(event).text
            if TranscriptChunk.is_type(event.type):
                chunks += TranscriptChunk.from_event(event).text
    assert kinds[0] is TranscriptStart
    assert kinds[-2:] == [Transcript, TranscriptStop]
    return text, chunks


@pytest.mark.alone
async def test_home_assistants_order(running, free_port, voice) -> None:
    port = free_port()
    with running(wyoming_port=port):
        await check_order(f"tcp://127.0.0.1:{port}", voice())


async def check_order(address: str, audio: bytes) -> None:
    async with AsyncClient.from_uri(address) as client:
        began = time.monotonic()
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        info = Info.from_event(event)
        assert time.monotonic() - began < 1
        assert info.asr[0].models[0].languages == ["en"]
        assert info.asr[0].supports_transcript_streaming
        await client.write_event(Ping("here?").event())
        event = await client.read_event()
        assert event is not None
        assert Pong.from_event(event).text == "here?"
        first, chunks = await transcribe(client, audio)
        assert first == chunks
        assert len(first.split()) > 2
        assert await transcribe(client, audio) == (first, chunks)
        assert await transcribe(client, b"") == ("", "")


@pytest.mark.model
async def test_the_words_of_people(hearing, wyoming_port, clip, recording) -> None:
    async with AsyncClient.from_uri(f"tcp://127.0.0.1:{wyoming_port}") as client:
        text, chunks = await transcribe(client, clip(16_000).read_bytes())
    assert recording.is_but_for_corrections(chunks, text)
    recording.check([text])

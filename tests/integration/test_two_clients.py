"""Clients at once get their own transcripts; killing one disturbs nothing."""

from __future__ import annotations

import asyncio

import httpx


async def speak(talk, server, audio: bytes, gate: asyncio.Barrier | None = None) -> str:
    async with talk(server, {}) as conversation:
        if gate is not None:
            await gate.wait()
        for at in range(0, len(audio), 3200):
            await conversation.say(audio[at : at + 3200])
            await asyncio.sleep(0)
        await conversation.say({"type": "stop"})
        heard, code = await conversation.hear_all()
    assert code == 1000
    return " | ".join(message["text"] for message in heard if message["type"] == "final")


async def test_each_gets_its_own_transcript(server, talk, voice) -> None:
    sounds = [voice(1.0 + 0.3 * n, 110 + 30 * n, n) for n in range(4)]
    alone = [await speak(talk, server, sound) for sound in sounds]
    assert all(alone)
    assert len(set(alone)) > 1
    gate = asyncio.Barrier(len(sounds))
    together = await asyncio.gather(*(speak(talk, server, sound, gate) for sound in sounds))
    assert list(together) == alone


async def test_killing_one_disturbs_nothing(server, talk, voice) -> None:
    expected = await speak(talk, server, voice(2.4))
    async with talk(server, {}) as survivor:
        for number in range(5):
            async with talk(server, {"partial_interval_ms": 100}) as victim:
                await victim.say(voice(2.4)[:60_000])
                # No close frame, no goodbye: the cable is pulled.
                victim.socket.transport.abort()
            at = number * len(voice(2.4)) // 5 // 2 * 2
            await survivor.say(voice(2.4)[at : (number + 1) * len(voice(2.4)) // 5 // 2 * 2])
        await survivor.say({"type": "stop"})
        heard, code = await survivor.hear_all()
    assert code == 1000
    assert [m["text"] for m in heard if m["type"] == "final"] == expected.split(" | ")
    await until_empty(server)


async def until_empty(server) -> None:
    """The places of the killed are free again, and the engine has forgotten them."""
    async with asyncio.timeout(10), httpx.AsyncClient(verify=False, base_url=server.url) as client:
        while True:
            metrics = (await client.get("/metrics")).text
            if "diffscribe_sessions 0.0" in metrics and "diffscribe_rows 0.0" in metrics:
                return
            await asyncio.sleep(0.02)

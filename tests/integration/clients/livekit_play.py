"""Plays a file to a LiveKit plugin and prints what it says: for the scripts beside it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

from livekit import rtc

QUIET_SECONDS = 8.0
"""After which nothing more is expected, of a busy machine too."""


def frames(file: str) -> Iterator[rtc.AudioFrame]:
    """Return PCM at 16 kHz in pieces of 100 ms."""
    audio = Path(file).read_bytes()
    for at in range(0, len(audio), 3200):
        data = audio[at : at + 3200]
        yield rtc.AudioFrame(data, 16000, 1, len(data) // 2)


def show(event) -> None:
    texts = [each.text for each in event.alternatives]
    print(json.dumps({"kind": event.type.value, "texts": texts}), flush=True)


async def recognize(stt, file: str) -> None:
    """Send the whole file at once."""
    show(await stt.recognize(list(frames(file))))


async def stream(stt, file: str, pause: float) -> None:
    """Send it live, with a pause after each piece, until nothing more is said."""
    stream = stt.stream()
    for frame in frames(file):
        stream.push_frame(frame)
        if pause:
            await asyncio.sleep(pause)
    stream.flush()
    try:
        while True:
            show(await asyncio.wait_for(anext(stream), QUIET_SECONDS))
    except TimeoutError:
        await stream.aclose()
    await stt.aclose()

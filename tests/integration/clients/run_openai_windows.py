"""Takes the minutes of a room by REST alone, as Vexa and Attendee do, window by window.

Arguments: the server's URL, and a folder with a file of PCM at 16 kHz for each participant, named
after them. What somebody has said since their last pause is sent anew every two seconds; words
that two answers agree on are shown at once (LocalAgreement), all of them after a pause.
"""

import asyncio
import io
import json
import sys
import wave
from array import array
from pathlib import Path

import openai

URL, FOLDER = sys.argv[1:]
TRACKS = {file.stem: file.read_bytes() for file in sorted(Path(FOLDER).glob("*.pcm"))}
RATE = 16000
STEP = RATE // 10
EVERY = 2 * RATE
PAUSE = RATE * 8 // 10
QUIET = 100
"""Of 32768: below it nobody speaks."""
SPEED = 2
"""Times the pace of speech."""
client = openai.AsyncOpenAI(base_url=f"{URL}/v1", max_retries=2)


def is_quiet(piece: bytes) -> bool:
    return max(map(abs, array("h", piece)), default=0) < QUIET


def wav(audio: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(audio)
    return file.getvalue()


def show(speaker: str, text: str, start: float, *, final: bool) -> None:
    print(
        json.dumps({"speaker": speaker, "text": text, "start": start, "final": final}), flush=True
    )


class Window:
    """What a participant has said since their last pause."""

    def __init__(self, speaker: str) -> None:
        self.speaker = speaker
        self.audio = bytearray()
        self.start = 0
        self.sent = 0
        self.quiet = PAUSE
        self.last: list[str] = []

    async def take(self, piece: bytes, at: int) -> None:
        self.quiet = self.quiet + len(piece) // 2 if is_quiet(piece) else 0
        if not self.audio:
            if self.quiet:
                return
            self.start, self.sent, self.last = at, 0, []
        self.audio += piece
        if self.quiet >= PAUSE:
            await self.close()
        elif len(self.audio) // 2 - self.sent >= EVERY:
            self.sent = len(self.audio) // 2
            words = await self.transcribe()
            agreed = 0
            while agreed < min(len(words), len(self.last)) and words[agreed] == self.last[agreed]:
                agreed += 1
            self.last = words
            if agreed:
                show(self.speaker, " ".join(words[:agreed]), self.start / RATE, final=False)

    async def close(self) -> None:
        if not self.audio:
            return
        words = await self.transcribe()
        self.audio.clear()
        if words:
            show(self.speaker, " ".join(words), self.start / RATE, final=True)

    async def transcribe(self) -> list[str]:
        answer = await client.audio.transcriptions.create(
            file=("window.wav", wav(bytes(self.audio))),
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=["word"],
            language="en",
        )
        return [word.word for word in answer.words or ()]


async def listen(speaker: str, track: bytes) -> None:
    loop, window = asyncio.get_running_loop(), Window(speaker)
    began = loop.time()
    for at in range(0, len(track), 2 * STEP):
        await asyncio.sleep(max(0.0, began + at / 2 / RATE / SPEED - loop.time()))
        await window.take(track[at : at + 2 * STEP], at // 2)
    await window.close()


async def main() -> None:
    await asyncio.gather(*(listen(name, track) for name, track in TRACKS.items()))


asyncio.run(main())

"""Takes the minutes of a room with LiveKit Agents: one session for each participant.

Arguments: the server's URL, `realtime` (OpenAI's API) or `flux` (Deepgram's), and a folder with a
file of PCM at 16 kHz for each participant, named after them. In a job, `speak` is what a
`rtc.AudioStream` of the participant's track does, and `RoomIO` plugs that in.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from livekit import rtc
from livekit.agents import Agent, AgentSession, StopResponse, utils
from livekit.agents.voice.io import AudioInput
from livekit.plugins import deepgram, openai

URL, API, FOLDER = sys.argv[1:]
TRACKS = {file.stem: file.read_bytes() for file in sorted(Path(FOLDER).glob("*.pcm"))}
TRAILING_SECONDS = 3
QUIET_SECONDS = 5
SPEED = 2
"""Times the pace of speech."""


def make_stt():
    if API == "flux":
        url = URL.replace("http", "ws", 1) + "/v2/listen"
        return deepgram.STTv2(api_key="sesame", base_url=url)
    return openai.STT(base_url=f"{URL}/v1", use_realtime=True, language="en")


class Transcriber(Agent):
    """Listens to one participant and never answers."""

    def __init__(self) -> None:
        super().__init__(instructions="not needed", stt=make_stt())

    async def on_user_turn_completed(self, chat_ctx, new_message) -> None:
        raise StopResponse


class Speaker(AudioInput):
    """The participant's track."""

    def __init__(self, audio: bytes) -> None:
        super().__init__(label="track")
        self._audio = audio + bytes(2 * 16000 * TRAILING_SECONDS)
        self._at = 0
        self.is_over = asyncio.Event()

    async def __anext__(self) -> rtc.AudioFrame:
        if self._at >= len(self._audio):
            self.is_over.set()
            await asyncio.Event().wait()  # a track that is muted
        await asyncio.sleep(0.1 / SPEED)
        data = self._audio[self._at : self._at + 3200]
        self._at += 3200
        return rtc.AudioFrame(data, 16000, 1, len(data) // 2)


async def transcribe(identity: str, audio: bytes) -> None:
    speaker, session, heard = Speaker(audio), AgentSession(), asyncio.Event()

    @session.on("user_input_transcribed")
    def show(event) -> None:
        heard.set()
        shown = {"speaker": identity, "text": event.transcript, "final": event.is_final}
        print(json.dumps(shown), flush=True)

    session.input.audio = speaker
    await session.start(agent=Transcriber())
    await speaker.is_over.wait()
    with contextlib.suppress(TimeoutError):
        while True:
            heard.clear()
            await asyncio.wait_for(heard.wait(), QUIET_SECONDS)
    await session.aclose()


async def main() -> None:
    async with utils.http_context.open():
        await asyncio.gather(*(transcribe(name, track) for name, track in TRACKS.items()))


asyncio.run(main())

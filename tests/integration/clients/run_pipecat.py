"""Pipecat's OpenAI services: realtime with server VAD or manual turns, and a file for each turn.

Arguments: the server's URL, a file of PCM at 16 kHz, `vad`, `manual` or `rest`. With the last two
the whole file is one turn, as a VAD in the pipeline would find it.
"""

import asyncio
import sys
from pathlib import Path

from pipecat.frames.frames import (
    ErrorFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
)
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat_turn import play

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
SHOWN = (
    ErrorFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
)


def make_service():
    if MODE == "rest":
        return OpenAISTTService(api_key="sesame", base_url=f"{URL}/v1")
    url = URL.replace("http", "ws", 1) + "/v1/realtime"
    turns = {"type": "server_vad", "silence_duration_ms": 500} if MODE == "vad" else False
    return OpenAIRealtimeSTTService(api_key="sesame", base_url=url, turn_detection=turns)


async def main() -> None:
    await play(make_service(), AUDIO, SHOWN, is_turn=MODE != "vad")


asyncio.run(main())

"""Pipecat's Deepgram service. Arguments: the server's URL, a file of PCM at 16 kHz."""

import asyncio
import sys
from pathlib import Path

from pipecat.frames.frames import ErrorFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat_turn import play

URL, FILE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
SHOWN = (ErrorFrame, InterimTranscriptionFrame, TranscriptionFrame)


async def main() -> None:
    service = DeepgramSTTService(api_key="sesame", base_url=URL.replace("http", "ws", 1))
    await play(service, AUDIO, SHOWN, is_turn=True)


asyncio.run(main())

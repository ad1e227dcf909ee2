"""Pipecat's Deepgram services. Arguments: the URL, a file of PCM at 16 kHz, `live` or `flux`."""

import asyncio
import sys
from pathlib import Path

from pipecat.frames.frames import ErrorFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat_turn import play

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
SHOWN = (ErrorFrame, InterimTranscriptionFrame, TranscriptionFrame)


def make_service():
    url = URL.replace("http", "ws", 1)
    if MODE == "flux":
        return DeepgramFluxSTTService(api_key="sesame", url=f"{url}/v2/listen")
    return DeepgramSTTService(api_key="sesame", base_url=url)


async def main() -> None:
    await play(make_service(), AUDIO, SHOWN, is_turn=MODE == "live")


asyncio.run(main())

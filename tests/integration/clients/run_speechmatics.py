"""Speechmatics' Python package, realtime.

Arguments: the server's URL, a file of PCM at 16 kHz or of any container, and `raw`, `file`,
`finals` or `refused`.
"""

import asyncio
import json
import sys
from io import BytesIO
from pathlib import Path

from speechmatics.rt import (
    AsyncClient,
    AudioEncoding,
    AudioFormat,
    ConversationConfig,
    ServerMessageType,
    TranscriptionConfig,
)

URL, FILE, MODE = sys.argv[1:]
SOURCE = BytesIO(Path(FILE).read_bytes())
RAW = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000, chunk_size=3200)
CONFIG = TranscriptionConfig(
    language="en",
    enable_partials=MODE != "finals",
    conversation_config=ConversationConfig(end_of_utterance_silence_trigger=0.5),
)


def show(message) -> None:
    print(json.dumps(message), flush=True)


async def main() -> None:
    # With `file` the address is in SPEECHMATICS_RT_URL.
    where = {} if MODE == "file" else {"url": URL.replace("http", "ws", 1) + "/v2"}
    key = "wrong" if MODE == "refused" else "sesame"
    async with AsyncClient(api_key=key, **where) as client:
        for kind in ServerMessageType:
            client.on(kind, show)
        audio = AudioFormat(chunk_size=3200) if MODE == "file" else RAW
        try:
            await client.transcribe(SOURCE, transcription_config=CONFIG, audio_format=audio)
        except Exception as error:
            show({"message": "failed", "error": type(error).__name__, "text": str(error)})


asyncio.run(main())

"""The openai package: a client secret from the holder of the key, then a session with it alone.

Arguments: the server's URL, a file of PCM at 24 kHz. Prints the texts that the session gave, with
turns by hand, as the secret says.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI

URL, FILE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()


def client(key: str) -> AsyncOpenAI:
    sockets = URL.replace("http", "ws", 1) + "/v1"
    return AsyncOpenAI(api_key=key, base_url=f"{URL}/v1", websocket_base_url=sockets)


async def main() -> None:
    inner = {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None}
    session = {"type": "transcription", "audio": {"input": inner}}
    made = await client("sesame").realtime.client_secrets.create(session=session)
    browser = client(made.value).realtime
    async with browser.connect(extra_query={"intent": "transcription"}) as connection:
        for at in range(0, len(AUDIO), 4800):
            audio = base64.b64encode(AUDIO[at : at + 4800]).decode()
            await connection.input_audio_buffer.append(audio=audio)
        await connection.input_audio_buffer.commit()
        while not (event := await connection.recv()).type.endswith(".completed"):
            pass
    print(json.dumps({"texts": [event.transcript]}), flush=True)


asyncio.run(main())

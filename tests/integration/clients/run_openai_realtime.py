"""The openai package's realtime client: server VAD, then manual turns, GA or beta.

Arguments: the server's URL, a file of PCM at 24 kHz, `vad`, `manual` or `beta`.
"""

import asyncio
import base64
import contextlib
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
QUIET_SECONDS = 30.0 if MODE == "manual" else 8.0
"""After which nothing more is expected, of a busy machine too; a manual turn has its end."""
TURN = {"type": "server_vad", "silence_duration_ms": 500}


def show(event) -> None:
    print(json.dumps(event.model_dump()), flush=True)


async def say(connection) -> None:
    if MODE == "beta":
        session = {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            "turn_detection": TURN,
        }
        await connection.transcription_session.update(session=session)
    else:
        inner = {
            "format": {"type": "audio/pcm", "rate": 24000},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            "turn_detection": None if MODE == "manual" else TURN,
        }
        session = {"type": "transcription", "audio": {"input": inner}}
        await connection.session.update(session=session)
    for at in range(0, len(AUDIO), 4800):
        audio = base64.b64encode(AUDIO[at : at + 4800]).decode()
        await connection.input_audio_buffer.append(audio=audio)
    await connection.input_audio_buffer.commit()


async def main() -> None:
    url = URL.replace("http", "ws", 1) + "/v1"
    client = AsyncOpenAI(base_url=f"{URL}/v1", websocket_base_url=url)
    realtime = client.beta.realtime if MODE == "beta" else client.realtime
    options = {"model": "gpt-4o-transcribe"} if MODE == "beta" else {}
    running = 0
    async with realtime.connect(extra_query={"intent": "transcription"}, **options) as connection:
        saying = asyncio.create_task(say(connection))
        with contextlib.suppress(TimeoutError):
            while True:
                event = await asyncio.wait_for(connection.recv(), QUIET_SECONDS)
                show(event)
                kind = event.type.rpartition(".")[2]
                running += (kind == "committed") - (kind in ("completed", "failed"))
                if kind == "completed" and saying.done() and not running and MODE == "manual":
                    break
        await saying


asyncio.run(main())

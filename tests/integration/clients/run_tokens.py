"""What a browser would do: a token from the holder of the key, then a session with it alone.

Arguments: the server's URL, over HTTPS, as AssemblyAI's package knows no other; a file of PCM at
16 kHz; and `deepgram`, `assemblyai` or `speechmatics`. Prints the texts that the session gave.
"""

import asyncio
import json
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

URL, FILE, API = sys.argv[1:]
HOST = URL.removeprefix("https://")
AUDIO = Path(FILE).read_bytes()
PIECES = [AUDIO[at : at + 3200] for at in range(0, len(AUDIO), 3200)]


def deepgram() -> list[str]:
    from deepgram import DeepgramClient
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types import ListenV1CloseStream

    sockets = f"wss://{HOST}"
    where = DeepgramClientEnvironment(base=URL, production=sockets, agent=sockets, agent_rest=URL)
    holder = DeepgramClient(api_key="sesame", environment=where)
    token = holder.auth.v1.tokens.grant(ttl_seconds=60).access_token
    texts: list[str] = []

    def hear(message) -> None:
        if message.type == "Results" and message.is_final:
            texts.append(message.channel.alternatives[0].transcript)

    client = DeepgramClient(access_token=token, environment=where)
    audio = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16000}
    with client.listen.v1.connect(**audio) as connection:
        connection.on(EventType.MESSAGE, hear)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        for piece in PIECES:
            connection.send_media(piece)
        connection.send_close_stream(ListenV1CloseStream(type="CloseStream"))
        listening.join()
    return texts


def assemblyai() -> list[str]:
    from assemblyai.streaming.v3 import (
        StreamingClient,
        StreamingClientOptions,
        StreamingEvents,
        StreamingParameters,
    )

    holder = StreamingClient(StreamingClientOptions(api_host=HOST, api_key="sesame"))
    token = holder.create_temporary_token(expires_in_seconds=60)
    texts: list[str] = []

    def hear(client, turn) -> None:
        if turn.end_of_turn:
            texts.append(turn.transcript)

    options = StreamingClientOptions(
        api_host=HOST, token=token, terminate_timeout=30, connect_timeout=10
    )
    client = StreamingClient(options)
    client.on(StreamingEvents.Turn, hear)
    client.connect(StreamingParameters(sample_rate=16000))
    for piece in PIECES:
        client.stream(piece)
        time.sleep(0.01)
    client.disconnect(terminate=True)
    return texts


async def speechmatics() -> list[str]:
    from speechmatics.rt import (
        AsyncClient,
        AudioEncoding,
        AudioFormat,
        JWTAuth,
        ServerMessageType,
        TranscriptionConfig,
    )

    texts: list[str] = []
    auth = JWTAuth("sesame", ttl=60, mp_url=URL)
    raw = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000, chunk_size=3200)
    async with AsyncClient(auth=auth, url=f"wss://{HOST}/v2") as client:
        client.on(
            ServerMessageType.ADD_TRANSCRIPT,
            lambda message: texts.append(message["metadata"]["transcript"]),
        )
        config = TranscriptionConfig(language="en")
        await client.transcribe(BytesIO(AUDIO), transcription_config=config, audio_format=raw)
    return texts


match API:
    case "deepgram":
        heard = deepgram()
    case "assemblyai":
        heard = assemblyai()
    case _:
        heard = asyncio.run(speechmatics())
print(json.dumps({"texts": [text for text in heard if text.strip()]}), flush=True)

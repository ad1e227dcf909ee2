"""Deepgram's Python package: live, in turns, and a whole file, with the plain and the async client.

Arguments: the server's URL, a file of PCM at 16 kHz, and `live`, `live-async`, `finals`, `flux` or
`file`; `refused` shows what a wrong key gets.
"""

import asyncio
import json
import sys
import threading
from pathlib import Path

from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import ListenV1CloseStream, ListenV1Finalize, ListenV1KeepAlive
from deepgram.listen.v2.types import ListenV2CloseStream, ListenV2Configure
from websockets.exceptions import InvalidStatus

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
SOCKETS = URL.replace("http", "ws", 1)
WHERE = {
    "api_key": "wrong" if MODE == "refused" else "sesame",
    "environment": DeepgramClientEnvironment(
        base=URL, production=SOCKETS, agent=SOCKETS, agent_rest=URL
    ),
}
LIVE = {
    "model": "nova-3",
    "language": "en-US",
    "encoding": "linear16",
    "sample_rate": 16000,
    "smart_format": True,
    "interim_results": MODE != "finals",
    "vad_events": True,
    "utterance_end_ms": 1000,
    "endpointing": 500,
    "keyterm": ["one", "two"],
}
FLUX = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": 16000}


def pieces():
    return [AUDIO[at : at + 3200] for at in range(0, len(AUDIO), 3200)]


def show(message) -> None:
    print(message.model_dump_json(), flush=True)


def live() -> None:
    with DeepgramClient(**WHERE).listen.v1.connect(**LIVE) as connection:
        connection.on(EventType.MESSAGE, show)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        connection.send_keep_alive(ListenV1KeepAlive(type="KeepAlive"))
        for piece in pieces():
            connection.send_media(piece)
        connection.send_finalize(ListenV1Finalize(type="Finalize"))
        connection.send_close_stream(ListenV1CloseStream(type="CloseStream"))
        listening.join()


async def live_async() -> None:
    async with AsyncDeepgramClient(**WHERE).listen.v1.connect(**LIVE) as connection:
        connection.on(EventType.MESSAGE, show)
        listening = asyncio.create_task(connection.start_listening())
        for piece in pieces():
            await connection.send_media(piece)
            await asyncio.sleep(0.01)
        await connection.send_finalize()
        await connection.send_close_stream()
        await listening


def flux() -> None:
    options = FLUX | {"eager_eot_threshold": 0.5, "eot_threshold": 0.8}
    with DeepgramClient(**WHERE).listen.v2.connect(**options) as connection:
        connection.on(EventType.MESSAGE, show)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        change = {"eot_threshold": 0.7, "eager_eot_threshold": 0.6}
        connection.send_configure(ListenV2Configure(type="Configure", thresholds=change))
        for piece in pieces():
            connection.send_media(piece)
        connection.send_close_stream(ListenV2CloseStream(type="CloseStream"))
        listening.join()


def file() -> None:
    show(
        DeepgramClient(**WHERE).listen.v1.media.transcribe_file(
            request=AUDIO,
            model="nova-3",
            smart_format=True,
            utterances=True,
            paragraphs=True,
            encoding="linear16",
            request_options={"additional_query_parameters": {"sample_rate": "16000"}},
        )
    )


def refused() -> None:
    client = DeepgramClient(**WHERE)
    for name, attempt in (
        ("live", lambda: client.listen.v1.connect(**LIVE).__enter__()),
        ("turns", lambda: client.listen.v2.connect(**FLUX).__enter__()),
        ("file", lambda: client.listen.v1.media.transcribe_file(request=AUDIO)),
    ):
        try:
            attempt()
        except ApiError as error:
            print(json.dumps({"name": name, "status": error.status_code}))
        except InvalidStatus as error:
            print(json.dumps({"name": name, "status": error.response.status_code}))


match MODE:
    case "live" | "finals":
        live()
    case "live-async":
        asyncio.run(live_async())
    case "flux":
        flux()
    case "file":
        file()
    case "refused":
        refused()

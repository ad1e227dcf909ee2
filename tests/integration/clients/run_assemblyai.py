"""AssemblyAI's Python package, streaming v3.

Arguments: the server's URL, a file of PCM at 16 kHz, `stream` or `refused`.
"""

import sys
import time
from pathlib import Path

from assemblyai.streaming.v3 import (
    StreamingClient,
    StreamingClientOptions,
    StreamingEvents,
    StreamingParameters,
    StreamingSessionParameters,
)

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
OPTIONS = StreamingClientOptions(
    api_host=URL.replace("http", "ws", 1),
    api_key="wrong" if MODE == "refused" else "sesame",
    terminate_timeout=30,
    connect_timeout=10,
)


def show(client, event) -> None:
    print(event.model_dump_json(), flush=True)


def show_error(client, error) -> None:
    print('{"type": "failed", "code": %s}' % (error.code or 0), flush=True)


client = StreamingClient(OPTIONS)
for kind in (
    StreamingEvents.Begin,
    StreamingEvents.Turn,
    StreamingEvents.SpeechStarted,
    StreamingEvents.Termination,
    StreamingEvents.Warning,
):
    client.on(kind, show)
client.on(StreamingEvents.Error, show_error)
client.connect(
    StreamingParameters(
        sample_rate=16000, format_turns=True, keyterms_prompt=["one", "two"], language_codes=["en"]
    )
)
if MODE == "stream":
    client.set_params(StreamingSessionParameters(min_turn_silence=500, max_turn_silence=2400))
    for at in range(0, len(AUDIO), 3200):
        client.stream(AUDIO[at : at + 3200])
        time.sleep(0.01)
    client.force_endpoint()
client.disconnect(terminate=MODE == "stream")

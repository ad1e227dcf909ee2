"""LiveKit's OpenAI plugin: realtime with server VAD, and a whole file.

Arguments: the server's URL, a file of PCM at 16 kHz, `realtime` or `rest`.
"""

import asyncio
import json
import sys
from pathlib import Path

from livekit import rtc
from livekit.agents import utils
from livekit.plugins import openai

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
QUIET_SECONDS = 2.0


def frames():
    for at in range(0, len(AUDIO), 3200):
        data = AUDIO[at : at + 3200]
        yield rtc.AudioFrame(data, 16000, 1, len(data) // 2)


def show(event) -> None:
    texts = [each.text for each in event.alternatives]
    print(json.dumps({"kind": event.type.value, "texts": texts}), flush=True)


async def main() -> None:
    # The session belongs to the agent's job; here there is none.
    async with utils.http_context.open():
        stt = openai.STT(base_url=f"{URL}/v1", use_realtime=MODE == "realtime", language="en")
        if MODE == "rest":
            show(await stt.recognize(list(frames())))
            return
        stream = stt.stream()
        for frame in frames():
            stream.push_frame(frame)
        stream.flush()
        try:
            while True:
                show(await asyncio.wait_for(anext(stream), QUIET_SECONDS))
        except TimeoutError:
            await stream.aclose()
        await stt.aclose()


asyncio.run(main())

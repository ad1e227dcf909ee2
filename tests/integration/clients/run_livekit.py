"""LiveKit's OpenAI plugin: realtime with server VAD, and a whole file.

Arguments: the server's URL, a file of PCM at 16 kHz, `realtime` or `rest`.
"""

import asyncio
import sys

from livekit.agents import utils
from livekit.plugins import openai
from livekit_play import recognize, stream

URL, FILE, MODE = sys.argv[1:]


async def main() -> None:
    # The session belongs to the agent's job; here there is none.
    async with utils.http_context.open():
        stt = openai.STT(base_url=f"{URL}/v1", use_realtime=MODE == "realtime", language="en")
        if MODE == "rest":
            await recognize(stt, FILE)
        else:
            await stream(stt, FILE, pause=0)


asyncio.run(main())

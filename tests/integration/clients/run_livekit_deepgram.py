"""LiveKit's Deepgram plugin: live, in turns, and a whole file.

Arguments: the server's URL, a file of PCM at 16 kHz, `live`, `flux` or `file`.
"""

import asyncio
import sys

from livekit.agents import utils
from livekit.plugins import deepgram
from livekit_play import recognize, stream

URL, FILE, MODE = sys.argv[1:]


async def main() -> None:
    # The session belongs to the agent's job; here there is none.
    async with utils.http_context.open():
        if MODE == "flux":
            url = URL.replace("http", "ws", 1) + "/v2/listen"
            stt = deepgram.STTv2(api_key="sesame", base_url=url, eager_eot_threshold=0.5)
        else:
            stt = deepgram.STT(api_key="sesame", base_url=f"{URL}/v1/listen", endpointing_ms=500)
        if MODE == "file":
            await recognize(stt, FILE)
        else:
            await stream(stt, FILE, pause=0.01)


asyncio.run(main())

"""Restart two servers one after the other under live streams; lose nothing.

    python -m tests.long.rolling --streams 50
    python -m tests.long.rolling --streams 4 --model embedded

The streams go at the pace of speech through a TCP proxy in front of two servers. Each server is
stopped with SIGTERM while the streams run, drains, ends, and is started again before the next one
is. The transcripts are compared with those of the same streams undisturbed. The exit status is 0
where nothing differs, every server ended with 0 in its set time, and each stream was moved.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.long.live import Comparison, play_live, streams_of
from tests.long.play import play
from tests.long.proxy import Proxy
from tests.long.servers import ServerProcess, serving

_DRAIN_SECONDS = 10
_STOP_SECONDS = _DRAIN_SECONDS + 10
"""What a server may take from SIGTERM to its end."""


async def restart(servers: list[ServerProcess], after: float) -> bool:
    """Restart each server, and return whether each ended in time and with status 0.

    Args:
        servers: the one after the other.
        after: seconds before the first.
    """
    is_right = True
    await asyncio.sleep(after)
    for server in servers:
        began = time.monotonic()
        status = await server.terminate()
        seconds = time.monotonic() - began
        await server.start()
        print(f"port {server.port}: ended with {status} after {seconds:.1f} s, started again")
        is_right = is_right and status == 0 and seconds < _STOP_SECONDS
    return is_right


async def run(arguments: argparse.Namespace) -> int:
    """Play the streams; return 0 where nothing was lost."""
    options = ["--model", arguments.model, "--drain-seconds", str(_DRAIN_SECONDS)]
    options += ["--busy-share", "0"]  # how many streams fit is not what is asked here
    audios = streams_of(arguments.seconds, arguments.seed, arguments.streams)
    async with serving(2, options) as servers:
        direct = f"ws://127.0.0.1:{servers[0].port}/v1/stream"
        wholes = {audio: await play(direct, audio) for audio in set(audios)}
        addresses = [("127.0.0.1", server.port) for server in servers]
        async with Proxy(addresses).running() as proxy:
            restarting = asyncio.create_task(restart(servers, arguments.seconds / 8))
            heard = await asyncio.gather(
                *(
                    play_live(proxy.url, audio, number / arguments.streams)
                    for number, audio in enumerate(audios)
                )
            )
            was_early = not restarting.done()
            is_right = await restarting
    compared = Comparison([wholes[audio] for audio in audios], heard)
    moved = sum(each.reconnects > 0 for each in heard)
    print(
        f"{arguments.streams} live streams of {arguments.seconds:g} s ({arguments.model}), two "
        f"servers restarted: {moved} streams moved, {sum(each.reconnects for each in heard)} "
        f"times, {compared}"
    )
    compared.print_differences()
    if was_early:
        print("the streams ended before the restarts did: give them more --seconds")
    held = compared.is_same and is_right and not was_early and moved == arguments.streams
    return 0 if held else 1


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="of each stream")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

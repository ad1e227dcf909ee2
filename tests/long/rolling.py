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

from tests.long.play import Heard, differing, play
from tests.long.proxy import Proxy
from tests.long.recordings import RATE, stream_of
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
    # A few different streams, each played many times: the rest is the same for every one.
    kinds = min(arguments.streams, 10)
    audios = [stream_of(arguments.seconds, arguments.seed + kind) for kind in range(kinds)]
    async with serving(2, options) as servers:
        direct = f"ws://127.0.0.1:{servers[0].port}/v1/stream"
        wholes = [await play(direct, audio) for audio in audios]
        addresses = [("127.0.0.1", server.port) for server in servers]
        async with Proxy(addresses).running() as proxy:
            restarting = asyncio.create_task(restart(servers, arguments.seconds / 8))
            heard = await asyncio.gather(
                *(play_live(proxy.url, audios[number % kinds], number / arguments.streams)
                  for number in range(arguments.streams))
            )  # fmt: skip
            was_early = not restarting.done()
            is_right = await restarting
    return report(arguments, [wholes[n % kinds] for n in range(arguments.streams)], heard, is_right,
                  was_early)  # fmt: skip


async def play_live(url: str, audio: bytes, delay: float) -> Heard:
    """Play a stream at the pace of speech, after ``delay`` seconds."""
    await asyncio.sleep(delay)
    return await play(url, audio, bytes_per_second=2 * RATE, piece=3200)


def report(
    arguments: argparse.Namespace,
    wholes: list[Heard],
    heard: list[Heard],
    is_right: bool,
    was_early: bool,
) -> int:
    """Say what came of it, and return 0 where nothing was lost."""
    pairs = list(zip(wholes, heard, strict=True))
    wrong = sum(differing(whole.words, each.words) for whole, each in pairs)
    moved = sum(each.reconnects > 0 for each in heard)
    same = sum(
        whole.places == each.places and whole.samples == each.samples for whole, each in pairs
    )
    words = sum(len(whole.words) for whole in wholes)
    print(
        f"{arguments.streams} live streams of {arguments.seconds:g} s ({arguments.model}), two "
        f"servers restarted: {moved} streams moved, {sum(each.reconnects for each in heard)} "
        f"times, {words} words, {wrong} differ; {same} have each final at its place"
    )
    for number, (whole, each) in enumerate(pairs):
        for error in each.errors:
            print(f"  stream {number}: {error}")
        for one, other in zip(whole.finals, each.finals, strict=False):
            if one.text != other.text:
                print(f"  stream {number}, {one.start}: {one.text!r} became {other.text!r}")
    if was_early:
        print("the streams ended before the restarts did: give them more --seconds")
    held = not wrong and is_right and not was_early and moved == same == arguments.streams
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

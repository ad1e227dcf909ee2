"""Kill servers, the network and the client's socket under streams of real speech; lose no word.

    python -m tests.long.kills --kills 100

Each stream is played twice to two servers behind a proxy: undisturbed, and with kills at random
moments: a server dies (SIGKILL, and is started again), the network breaks or hangs, the client's
own socket is gone. The joined transcripts are compared word by word, the finals sample by sample.
The exit status is 0 where nothing differs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter

from stream_client.client import Stream
from tests.long.play import Heard, Line, differing, play
from tests.long.proxy import Proxy
from tests.long.recordings import RATE, stream_of
from tests.long.servers import ServerProcess, serving


class Killer:
    """Breaks what carries one stream, at given positions of it.

    Args:
        proxy: that the stream goes through.
        servers: behind it.
        chance: decides what is broken.
        server_share: of the kills that hit a server.
    """

    def __init__(
        self,
        proxy: Proxy,
        servers: list[ServerProcess],
        chance: random.Random,
        server_share: float,
    ) -> None:
        self._proxy = proxy
        self._servers = servers
        self._chance = chance
        self._server_share = server_share
        self._restarts: set[asyncio.Task[None]] = set()
        self.kills: Counter[str] = Counter()

    async def run(self, stream: Stream, line: Line, positions: list[int]) -> None:
        """Kill once the stream has been sent up to each position (samples), or a bit later."""
        for position in positions:
            # A stream that goes back after a break is not where it was before it.
            while stream.sent_position < position:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(self._chance.uniform(0, 0.3))
            await self._kill(line)

    async def _kill(self, line: Line) -> None:
        share = self._server_share
        names, weights = ("server", "network", "hang", "socket"), (share, *[(1 - share) / 3] * 3)
        name = self._chance.choices(names, weights)[0]
        if name == "server" and self._restarts:
            name = "network"  # the other one carries the stream; it is not to be left with none
        self.kills[name] += 1
        if name == "server":
            server = self._servers[self._proxy.newest]
            await server.kill()
            task = asyncio.create_task(server.start())
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
        elif name == "network":
            self._proxy.cut()
        elif name == "hang":
            self._proxy.hold()
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))
            self._proxy.cut()
            self._proxy.resume()
        else:
            line.abort()

    async def finish(self) -> None:
        """Wait until every server is there again."""
        await asyncio.gather(*self._restarts)

    def close(self) -> None:
        """Wait for no server any more."""
        for task in self._restarts:
            task.cancel()


async def run(arguments: argparse.Namespace) -> int:
    """Play the streams; return how many words and finals differ."""
    chance = random.Random(arguments.seed)
    options = ["--model", arguments.model]
    wrong = done = resumed = number = 0
    words = 0
    kills: Counter[str] = Counter()
    began = time.monotonic()
    async with (
        serving(2, options) as servers,
        Proxy([("127.0.0.1", server.port) for server in servers]).running() as proxy,
    ):
        killer = Killer(proxy, servers, chance, arguments.server_share)
        while done < arguments.kills:
            count = min(arguments.kills - done, arguments.kills_per_stream)
            audio = stream_of(arguments.seconds, arguments.seed + number)
            await killer.finish()
            whole = await play(proxy.url, audio)
            places = sorted(chance.randrange(len(audio) // 2) for _ in range(count))
            before = killer.kills.total()
            broken = await play_broken(proxy.url, audio, killer, places, arguments.pace)
            found = compare(whole, broken, len(audio) // 2)
            count = killer.kills.total() - before
            number, done, wrong = number + 1, done + count, wrong + found
            resumed, words = resumed + broken.reconnects, words + len(whole.words)
            print(
                f"stream {number}: {len(whole.words)} words, {count} kills, "
                f"{broken.reconnects} resumed, {found} differ; {time.monotonic() - began:.0f} s",
                flush=True,
            )
        kills = killer.kills
        killer.close()
    print(
        f"{done} kills ({', '.join(f'{n} {name}' for name, n in kills.items())}) in {number} "
        f"streams of {arguments.seconds:g} s of speech ({arguments.model}, {RATE} Hz): {resumed} "
        f"times resumed, {words} words, {wrong} differ"
    )
    if resumed < done // 2:
        print("too few of the kills hit anything")
        return 1
    return min(wrong, 1)


async def play_broken(
    url: str, audio: bytes, killer: Killer, places: list[int], pace: float
) -> Heard:
    """Play a stream, ``pace`` times as fast as speech, that is broken at places (samples)."""
    tasks: list[asyncio.Task[None]] = []

    def begin(stream: Stream, line: Line) -> None:
        tasks.append(asyncio.create_task(killer.run(stream, line, places)))

    try:
        return await play(url, audio, bytes_per_second=int(2 * RATE * pace), began=begin)
    finally:
        for task in tasks:
            task.cancel()


def compare(whole: Heard, broken: Heard, samples: int) -> int:
    """Return how many words differ, and say what does."""
    wrong = differing(whole.words, broken.words)
    for one, other in zip(whole.finals, broken.finals, strict=False):
        if (one.text, one.start, one.end) != (other.text, other.start, other.end):
            print(
                f"  {one.start}-{one.end} {one.text!r}\n  {other.start}-{other.end} {other.text!r}"
            )
    if whole.places != broken.places:
        print("  the finals are not at the same places")
        wrong = wrong or 1
    if (whole.samples, broken.samples) != (samples, samples):
        print(f"  of {samples} samples {whole.samples} and {broken.samples} were counted")
        wrong = wrong or 1
    return wrong


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-stream", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of each stream")
    parser.add_argument("--pace", type=float, default=6, help="of the broken streams; 1 is live")
    parser.add_argument("--server-share", type=float, default=0.25, help="kills of a server")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

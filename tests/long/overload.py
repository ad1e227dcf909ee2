"""Ten times more clients than fit: those inside are served as if alone, the rest is told at once.

``python -m tests.long.overload`` starts a server with the embedded model on the CPU, measures one
client alone, then has ten times as many clients as fit come again and again, each playing real
speech at its pace. It fails unless

* the 95th percentile from the end of speech to the final is at most 1.5 times that of one client,
* whoever is refused is told so (HTTP 503 before the upgrade) within 100 ms, at the 99th percentile,
* nobody inside is sent away, and every one of them gets all its finals.

With ``--imitate`` the model is one that sleeps for as long as a model would take: then other work
on the machine does not matter, and what is measured is the server's own doing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from stream_client.client import connect
from stream_client.errors import ClientError, ServerRefused
from stream_client.load import Latency, StreamResult, Watch
from stream_protocol.messages import Start
from stream_server.evaluation.turns import read_metrics
from tests.long.speech import clips
from tests.with_server import SERVE, running_server

FACTOR = 1.5
"""Times the unloaded latency."""
REFUSAL_MS = 100.0
CPU = ("--device", "cpu", "--threads", "1")
IMITATION = ("-m", "tests.long.imitation")
_RETRY_SECONDS = 2.0
"""What the answer's ``Retry-After`` says."""
_CLIP_SECONDS = 20.0
_CHUNK_MS = 100


@dataclass(slots=True)
class Crowd:
    """What happened to many clients."""

    served: list[StreamResult] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    """Answers that are neither."""

    @property
    def final(self) -> Latency:
        """From the end of speech to the final, milliseconds."""
        return Latency.of([value for each in self.served for value in each.final_ms])

    @property
    def finalise(self) -> Latency:
        """From ``speech_ended`` to the final, milliseconds."""
        return Latency.of([value for each in self.served for value in each.finalise_ms])

    @property
    def refused(self) -> Latency:
        """From the connect to the refusal, milliseconds."""
        return Latency.of(self.refused_ms)

    @property
    def problems(self) -> list[str]:
        """What went wrong for those inside, and odd answers."""
        return [*(text for each in self.served for text in each.problems), *self.other]


@dataclass(frozen=True, slots=True)
class Result:
    """Of the whole run; latencies in milliseconds."""

    capacity: int
    """Sessions that fit, by the server's own measure, before the crowd came."""
    clients: int
    alone: Latency
    alone_finalise: Latency
    crowded: Latency
    crowded_finalise: Latency
    refused: Latency
    sessions: int
    """That were served to their end in the crowd."""
    problems: list[str]

    @property
    def failures(self) -> list[str]:
        """The promises that do not hold."""
        found = list(self.problems)
        if not self.alone.count or not self.crowded.count:
            found.append("nothing was heard")
        if self.crowded.p95 > FACTOR * self.alone.p95:
            found.append(f"final p95 {self.crowded.p95:.0f} ms > {FACTOR} x {self.alone.p95:.0f}")
        if not self.refused.count:
            found.append("nobody was refused: that was no overload")
        if self.refused.p99 > REFUSAL_MS:
            found.append(f"refused after {self.refused.p99:.0f} ms at p99")
        return found


async def play(url: str, clip: bytes, watch: Watch) -> None:
    """Play one clip at its pace and note what comes back."""
    async with connect(url, Start(), reconnect=None) as stream:

        async def send() -> None:
            size = 32 * _CHUNK_MS
            begun = time.monotonic()
            for first in range(0, len(clip), size):
                await asyncio.sleep(begun + (first + size) / 32_000 - time.monotonic())
                await stream.send(clip[first : first + size])
                watch.sent(min(first + size, len(clip)) // 2, time.monotonic())
            await stream.stop()

        sending = asyncio.create_task(send())
        try:
            async for message in stream:
                watch.received(message, time.monotonic())
            await sending
        finally:
            sending.cancel()
        watch.result.acked_samples = stream.acked


async def visit(url: str, clip: bytes, crowd: Crowd) -> bool:
    """Come once; return whether this client was let in."""
    watch = Watch()
    began = time.monotonic()
    try:
        await play(url, clip, watch)
    except ServerRefused as error:
        if error.code == "overloaded" and not watch.result.sent_samples:
            crowd.refused_ms.append((time.monotonic() - began) * 1000)
            return False
        watch.result.problems.append(str(error))
    except ClientError as error:
        watch.result.problems.append(str(error))
    watch.result.check()
    crowd.served.append(watch.result)
    return True


async def come(
    url: str, sounds: Sequence[bytes], clients: int, seconds: float, crowd: Crowd
) -> None:
    """Have clients come again and again for a time; who is inside then may finish."""
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(_RETRY_SECONDS * number / clients)
        clip = sounds[number % len(sounds)]
        while time.monotonic() < until:
            if not await visit(url, clip, crowd):
                await asyncio.sleep(_RETRY_SECONDS)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))


def capacity(url: str) -> int:
    """Ask the server how many sessions fit."""
    return int(read_metrics(url)["diffscribe_sessions_capacity"])


def run(url: str, times: int, alone_seconds: float, seconds: float) -> Result:
    """Run it all.

    Args:
        url: of a fresh server.
        times: how many times more clients come than fit.
        alone_seconds: of one client alone.
        seconds: of the crowd.
    """
    sounds = clips(12, _CLIP_SECONDS)
    alone, crowd = Crowd(), Crowd()
    asyncio.run(come(url, sounds[-1:], 1, 1.0, Crowd()))  # warms up
    for first in range(max(1, round(alone_seconds / _CLIP_SECONDS))):
        asyncio.run(come(url, sounds[first % len(sounds) :], 1, 1.0, alone))
    fits = capacity(url)
    asyncio.run(come(url, sounds, times * fits, seconds, crowd))
    return Result(
        capacity=fits,
        clients=times * fits,
        alone=alone.final,
        alone_finalise=alone.finalise,
        crowded=crowd.final,
        crowded_finalise=crowd.finalise,
        refused=crowd.refused,
        sessions=len(crowd.served),
        problems=[*alone.problems, *crowd.problems][:20],
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.overload")
    parser.add_argument("--times", type=int, default=10, help="times more clients than fit")
    parser.add_argument("--alone", type=float, default=240, help="seconds of one client alone")
    parser.add_argument("--seconds", type=float, default=240, help="seconds of the crowd")
    parser.add_argument("--imitate", action="store_true", help="a model that sleeps")
    parser.add_argument("options", nargs="*", help="of the server, after --")
    arguments = parser.parse_args()
    options = [*(arguments.options or CPU), "--log-level", "warning"]
    program: Sequence[str] = SERVE
    if arguments.imitate:
        program, options = IMITATION, arguments.options
    with running_server(options, 120, program) as url:
        result = run(url, arguments.times, arguments.alone, arguments.seconds)
    print(json.dumps(asdict(result), indent=1))
    for failure in result.failures:
        print(f"overload: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())

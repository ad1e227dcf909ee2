"""Hours of full load, and nothing is left of it: ``python -m tests.long.soak --minutes 60``.

Starts a server with the embedded model on the CPU and keeps it busy with sessions of every kind:
native ones, Deepgram's and Vosk's, files, and clients that vanish in the middle. After a warm-up,
and again at the end, everybody leaves and the process is looked at. It fails unless

* resident memory at the end is at most 5 % above that after the warm-up,
* no thread and no file descriptor more is there than then,
* every session that was to end well did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from tests.long.speech import clips
from tests.wav import to_wav
from tests.with_server import SERVE, running_server

GROWTH = 1.05
"""Times the memory after the warm-up."""
CPU = ("--device", "cpu", "--threads", "1", "--busy-share", "0", "--log-level", "warning")
_CHUNK = 6_400
"""Bytes in a frame."""
_SETTLE_SECONDS = 3.0
"""From the last session to the look at the process."""


@dataclass(frozen=True, slots=True)
class Look:
    """A process at a moment."""

    resident_mb: float
    threads: int
    files: int

    @classmethod
    def at(cls, process: int) -> Look:
        """Look at a process by its number."""
        folder = Path("/proc") / str(process)
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return cls(
            int(status["VmRSS"].split()[0]) / 1024,
            int(status["Threads"]),
            len(os.listdir(folder / "fd")),
        )


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    done: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    @property
    def sessions(self) -> int:
        """Sessions that ended, well or not."""
        return self.done.total()


@dataclass(frozen=True, slots=True)
class Result:
    """Of a run."""

    minutes: float
    sessions: int
    kinds: dict[str, int]
    problems: dict[str, int]
    warm: Look
    end: Look

    @property
    def failures(self) -> list[str]:
        """The promises that do not hold."""
        found = [f"{text}: {count} times" for text, count in self.problems.items()]
        if self.end.resident_mb > GROWTH * self.warm.resident_mb:
            found.append(f"{self.warm.resident_mb:.0f} MB became {self.end.resident_mb:.0f}")
        if self.end.threads > self.warm.threads:
            found.append(f"{self.warm.threads} threads became {self.end.threads}")
        if self.end.files > self.warm.files:
            found.append(f"{self.warm.files} files became {self.end.files}")
        return found


async def native(url: str, clip: bytes) -> None:
    """A session of ours, to its end."""
    async with connect(f"{url}/v1/stream", compression=None) as socket:
        await socket.send('{"type":"start"}')
        for first in range(0, len(clip), _CHUNK):
            await socket.send(clip[first : first + _CHUNK])
        await socket.send('{"type":"stop"}')
        last = [json.loads(text)["type"] async for text in socket][-1]
    assert last == "done", f"ended with {last}"


async def vanish(url: str, clip: bytes) -> None:
    """A client that is gone in the middle of a word."""
    socket = await connect(f"{url}/v1/stream", compression=None)
    await socket.send('{"type":"start"}')
    await socket.send(clip[: len(clip) // 2])
    await asyncio.sleep(0.3)
    socket.transport.abort()


async def deepgram(url: str, clip: bytes) -> None:
    """A session of Deepgram's API."""
    address = f"{url}/v1/listen?encoding=linear16&sample_rate=16000&interim_results=true"
    async with connect(address, compression=None) as socket:
        for first in range(0, len(clip), _CHUNK):
            await socket.send(clip[first : first + _CHUNK])
        await socket.send('{"type":"CloseStream"}')
        kinds = [json.loads(text)["type"] async for text in socket]
    assert kinds[-1] == "Metadata", f"ended with {kinds[-1]}"


async def vosk(url: str, clip: bytes) -> None:
    """A session of Vosk's protocol."""
    async with connect(f"{url}/vosk", compression=None) as socket:
        await socket.send('{"config": {"sample_rate": 16000}}')
        for first in range(0, len(clip), _CHUNK):
            await socket.send(clip[first : first + _CHUNK])
        await socket.send('{"eof" : 1}')
        texts = [json.loads(text) async for text in socket]
    assert "text" in texts[-1], f"ended with {texts[-1]}"


async def upload(url: str, clip: bytes) -> None:
    """A file."""
    async with httpx.AsyncClient(timeout=120) as client:
        answer = await client.post(
            url.replace("ws", "http", 1) + "/v1/audio/transcriptions", content=to_wav(clip)
        )
    assert answer.status_code == 200, f"HTTP {answer.status_code}"


KINDS: tuple[Callable[[str, bytes], Awaitable[None]], ...] = (
    native, vanish, native, deepgram, native, vosk, native, upload,
)  # fmt: skip


async def load(
    url: str, sounds: Sequence[bytes], streams: int, tally: Tally, until: Callable[[], bool]
) -> None:
    """Keep ``streams`` sessions going until it is enough; who is inside then ends well."""

    async def client(number: int) -> None:
        turn = number
        while not until():
            kind = KINDS[turn % len(KINDS)]
            try:
                async with asyncio.timeout(300):
                    await kind(url, sounds[turn % len(sounds)])
            except Exception as error:
                tally.problems[f"{kind.__name__}: {type(error).__name__} {error}"[:120]] += 1
            tally.done[kind.__name__] += 1
            turn += 1

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(client(number))


def settle(url: str, process: int) -> Look:
    """Wait until nobody is inside, and a little longer; then look."""
    address = url.replace("ws", "http", 1) + "/readyz"
    until = time.monotonic() + 60
    while httpx.get(address).json()["sessions"] and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(_SETTLE_SECONDS)
    return Look.at(process)


def run(
    url: str, process: int, minutes: float, sessions: int, streams: int, *, seconds: float = 3.0
) -> Result:
    """Load a server until both the time and the number of sessions are reached.

    Args:
        url: of the server, ``ws://HOST:PORT``.
        process: the server's number.
        minutes: at least, the warm-up (a sixth of it) not counted.
        sessions: at least.
        streams: sessions at once.
        seconds: of audio in each.
    """
    sounds = clips(12, seconds)
    tally = Tally()
    warm_until = time.monotonic() + minutes * 10
    asyncio.run(
        load(
            url, sounds, streams, tally,
            lambda: time.monotonic() >= warm_until and tally.sessions >= 2 * len(KINDS),
        )
    )  # fmt: skip
    warm = settle(url, process)
    began = last = time.monotonic()

    def is_enough() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last > 60:
            last = now
            print(f"{(now - began) / 60:.0f} min, {tally.sessions}, {Look.at(process)}", flush=True)
        return now >= began + 60 * minutes and tally.sessions >= sessions

    asyncio.run(load(url, sounds, streams, tally, is_enough))
    taken = (time.monotonic() - began) / 60
    end = settle(url, process)
    return Result(taken, tally.sessions, dict(tally.done), dict(tally.problems), warm, end)


def child() -> int:
    """Return the number of this process's one child: the server that was started."""
    with contextlib.suppress(OSError):
        task = Path("/proc/self/task")
        for thread in task.iterdir():
            found = (thread / "children").read_text(encoding="utf-8").split()
            if found:
                return int(found[0])
    raise RuntimeError("the server's process was not found")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=8, help="sessions at once")
    parser.add_argument("options", nargs="*", help="of the server, after --")
    arguments = parser.parse_args()
    with running_server(arguments.options or CPU, 120, SERVE) as url:
        result = run(
            url.removesuffix("/v1/stream"),
            child(),
            arguments.minutes,
            arguments.sessions,
            arguments.streams,
        )
    print(json.dumps(asdict(result), indent=1))
    for failure in result.failures:
        print(f"soak: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())

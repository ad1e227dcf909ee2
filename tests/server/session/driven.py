"""What the tests of the driver share: a peer in memory, an engine that is scripted, a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stream_protocol.messages import (
    ClientMessage,
    ServerMessage,
)
from stream_server.errors import Draining, Overloaded
from stream_server.scheduler.request import Reply, Request
from stream_server.session.driver import Services, run_session

RATE = 16_000


def vowel(seconds: float, pitch: float = 120.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.zeros_like(time)
    for harmonic in range(1, 30):
        hertz = pitch * harmonic
        gain = sum(np.exp(-(((hertz - formant) / 150) ** 2)) for formant in (600, 1200, 2500))
        wave += gain * np.sin(2 * np.pi * hertz * time)
    return 0.2 * wave / np.abs(wave).max()


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE))


def pcm16(*parts: np.ndarray) -> bytes:
    return (np.concatenate(parts) * 32767).astype("<i2").tobytes()


WORD = pcm16(silence(0.3), vowel(0.8), silence(0.8))


class MemoryPeer:
    """A client in memory: what it sends is queued, what it gets is kept."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[ClientMessage | bytes | Exception | None] = asyncio.Queue()
        self.messages: list[ServerMessage] = []
        self.closed: tuple[int, str] | None = None
        self.reads = 0
        self.arrived = asyncio.Condition()
        self.may_take = asyncio.Event()
        self.may_take.set()

    async def receive(self) -> ClientMessage | bytes | None:
        item = await self.incoming.get()
        self.reads += 1
        if isinstance(item, Exception):
            raise item
        return item

    async def send(self, message: ServerMessage) -> None:
        await self.may_take.wait()
        async with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    async def close(self, code: int, reason: str) -> None:
        assert self.closed is None
        self.closed = (code, reason)

    def say(self, *items: ClientMessage | bytes | Exception | None) -> None:
        for item in items:
            if isinstance(item, bytes):
                for start in range(0, len(item), 3200):
                    self.incoming.put_nowait(item[start : start + 3200])
            else:
                self.incoming.put_nowait(item)

    def of(self, kind: type) -> list[ServerMessage]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def wait_for(self, kind: type, count: int = 1) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(kind)) >= count)


class ScriptedEngine:
    """An engine that answers what the test wants, when it wants."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Request, Callable[[Reply], None]]] = []
        self.cancelled: list[tuple[str, int | None]] = []
        self.refusal: Overloaded | Draining | None = None
        self.took = asyncio.Event()
        self.took_final = asyncio.Event()

    def submit(self, request: Request, reply: Callable[[Reply], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append((request, reply))
        self.took.set()
        if request.is_final:
            self.took_final.set()

    def cancel(self, stream: str, segment: int | None = None) -> None:
        self.cancelled.append((stream, segment))

    def promote(self, stream: str, segment: int) -> None:
        request, reply = self.submitted[-1]
        assert request.key == (stream, segment)
        self.submitted[-1] = (replace(request, is_final=True), reply)
        self.took_final.set()

    def finals(self) -> list[tuple[Request, Callable[[Reply], None]]]:
        return [each for each in self.submitted if each[0].is_final]


async def serve(peer: MemoryPeer, services: Services, name: str = "s") -> None:
    async with asyncio.timeout(20):
        await run_session(peer, services, name)

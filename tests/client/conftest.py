"""A small real server for the client's tests: websockets and stream_protocol, no recogniser."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from stream_protocol import codec
from stream_protocol.connection import AUDIO, Connection, State
from stream_protocol.messages import (
    SUBPROTOCOL,
    Ack,
    ClientMessage,
    Configure,
    Done,
    Error,
    Final,
    Flush,
    Flushed,
    Limits,
    Partial,
    Ready,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
    Timings,
)

WIDTHS = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


@dataclass
class Heard:
    """One connection, as the server saw it."""

    start: Start
    audio: bytearray = field(default_factory=bytearray)
    controls: list[tuple[int, ClientMessage]] = field(default_factory=list)
    """With the bytes of audio received before each."""
    authorization: str | None = None


@dataclass
class SpeakingServer:
    """Gives a final for every ``segment_samples`` and breaks connections where told to."""

    segment_samples: int = 4800
    cut_after: list[int] = field(default_factory=list)
    """Events (messages either way) of connection 0, 1, … after which it is broken."""
    refuse: list[Error] = field(default_factory=list)
    """Errors which connection 0, 1, … gets instead of ``ready``; used up first."""
    ack_only: bool = False
    heard: list[Heard] = field(default_factory=list)
    dropped: int = 0
    url: str = ""

    async def handle(self, websocket: ServerConnection) -> None:
        limit = self.cut_after.pop(0) if self.cut_after else None
        talk = _Talk(self, websocket, limit)
        with contextlib.suppress(ConnectionClosed):
            await talk.run()


class _Cut(Exception):
    pass


class _Talk:
    def __init__(self, server: SpeakingServer, websocket: ServerConnection, limit: int | None):
        self.server, self.websocket, self.limit = server, websocket, limit
        self.protocol = Connection("server")
        self.segment = 0
        self.finished = 0  # samples that finals cover
        self.spoken = -1  # last segment announced

    async def run(self) -> None:
        try:
            await self.converse()
        except _Cut:
            self.server.dropped += 1
            self.websocket.transport.abort()

    def count(self) -> None:
        if self.limit is not None:
            if self.limit == 0:
                raise _Cut
            self.limit -= 1

    async def say(self, message: ServerMessage) -> None:
        self.count()
        self.protocol.send(message)
        await self.websocket.send(codec.encode(message))

    async def converse(self) -> None:
        while self.protocol.state is not State.CLOSED:
            data = await self.websocket.recv()
            self.count()
            if isinstance(data, bytes):
                self.protocol.receive(AUDIO)
                self.heard.audio += data
                await self.say(Ack(self.position))
                await self.recognise()
            else:
                message = codec.decode_client(data)
                self.protocol.receive(message)
                await self.answer(message)

    async def answer(self, message: ClientMessage) -> None:
        if isinstance(message, Start):
            await self.greet(message)
            return
        self.heard.controls.append((len(self.heard.audio), message))
        if isinstance(message, Configure):
            return
        await self.recognise(to_the_end=True)
        if isinstance(message, Flush):
            await self.say(Flushed(self.finished, message.id))
        if isinstance(message, Stop):
            await self.say(Done(self.position, self.segment))

    async def greet(self, start: Start) -> None:
        if self.server.refuse:
            await self.say(self.server.refuse.pop(0))
            return
        authorization = self.websocket.request.headers.get("Authorization")
        self.heard = Heard(start, authorization=authorization)
        self.server.heard.append(self.heard)
        places = start.resume.channels if start.resume else None
        self.finished = places[0].covered if places else 0
        self.segment = start.resume.segment if start.resume else 0
        limits = Limits(1 << 20, 10_000, 0, 0)
        token = f"token {len(self.server.heard)}"
        await self.say(Ready("session", token, "none", ["en"], limits))

    @property
    def position(self) -> int:
        start = self.heard.start
        width = WIDTHS.get(start.encoding, 2)
        origin = start.resume.position if start.resume else 0
        frames = len(self.heard.audio) // (width * start.channels)
        return origin + frames * 16000 // start.sample_rate

    async def recognise(self, to_the_end: bool = False) -> None:
        if self.server.ack_only:
            return
        size = self.server.segment_samples
        while self.position - self.finished >= size or (
            to_the_end and self.position > self.finished
        ):
            end = min(self.finished + size, self.position)
            await self.announce()
            await self.say(SpeechEnded(self.segment, 0, end))
            text = f"{self.finished}-{end} "
            await self.say(
                Final(
                    self.segment, 0, 2, text, self.finished, end, "en", 1.0, None,
                    Timings(1.0, 1.0, 1.0, 1),
                )
            )  # fmt: skip
            self.finished, self.segment = end, self.segment + 1
        if self.position - self.finished > size // 2:
            await self.announce()

    async def announce(self) -> None:
        if self.spoken >= self.segment:
            return
        self.spoken = self.segment
        await self.say(SpeechStarted(self.segment, 0, self.finished))
        await self.say(Partial(self.segment, 0, 1, "", "some", self.finished, self.position))


Serve = Callable[[SpeakingServer], contextlib.AbstractAsyncContextManager[SpeakingServer]]


@contextlib.asynccontextmanager
async def _serving(server: SpeakingServer) -> AsyncIterator[SpeakingServer]:
    listener: Server = await serve(
        server.handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None
    )
    port = listener.sockets[0].getsockname()[1]
    server.url = f"ws://127.0.0.1:{port}/v1/stream"
    try:
        yield server
    finally:
        listener.close()
        await asyncio.wait_for(listener.wait_closed(), 5)


@pytest.fixture
def speaking_server() -> type[SpeakingServer]:
    """The class of the server; give it to ``serving``."""
    return SpeakingServer


@pytest.fixture
def serving() -> Serve:
    """``async with serving(server)``: listens on a free port."""
    return _serving

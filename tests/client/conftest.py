"""Servers for the client's tests: a small real one (websockets and stream_protocol, no recogniser),
and one that takes captions as Zoom and YouTube do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

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
    places: int = 1 << 30
    """Connections at once; one more is refused."""
    ack_only: bool = False
    idle_timeout_ms: int = 0
    heard: list[Heard] = field(default_factory=list)
    dropped: int = 0
    inside: int = 0
    url: str = ""

    async def handle(self, websocket: ServerConnection) -> None:
        limit = self.cut_after.pop(0) if self.cut_after else None
        talk = _Talk(self, websocket, limit)
        self.inside += 1
        try:
            with contextlib.suppress(ConnectionClosed):
                await talk.run()
        finally:
            self.inside -= 1


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
        if self.server.inside > self.server.places:
            await self.say(Error("overloaded", "full", None, True, True))
            return
        if self.server.refuse:
            await self.say(self.server.refuse.pop(0))
            return
        authorization = self.websocket.request.headers.get("Authorization")
        self.heard = Heard(start, authorization=authorization)
        self.server.heard.append(self.heard)
        places = start.resume.channels if start.resume else None
        self.finished = places[0].covered if places else 0
        self.segment = start.resume.segment if start.resume else 0
        limits = Limits(1 << 20, 10_000, self.server.idle_timeout_ms, 0)
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


_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}( region:\w+#\w+)?")


class CaptionService(ThreadingHTTPServer):
    """Both services: refuses what is not in their form, keeps the rest."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CaptionHandler)
        self.taken: list[tuple[int, str]] = []
        """Numbers and bodies of captions."""
        self.refusals: list[int] = []
        """Statuses that the next posts get."""
        self.problems: list[str] = []
        self.tries = 0
        self.last = 0
        self.ahead = timedelta()
        self.delay = 0.0

    def url(self, path: str = "/closedcaption") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}?id=1&signature=a%2Cb"


class _CaptionHandler(BaseHTTPRequestHandler):
    server: CaptionService
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_zoom = urlsplit(self.path).path == "/closedcaption/seq"
        self.answer(200 if is_zoom else 405, str(self.server.last))

    def do_POST(self) -> None:
        self.server.tries += 1
        time.sleep(self.server.delay)
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length).decode("utf-8")
        query = parse_qs(urlsplit(self.path).query, strict_parsing=True)
        if self.server.refusals:
            self.answer(self.server.refusals.pop(0), "")
            return
        problem = self.check(query, body)
        if problem:
            self.server.problems.append(problem)
            self.answer(400, "")
            return
        self.server.taken.append((int(query["seq"][0]), body))
        now = datetime.now(UTC) + self.server.ahead
        self.answer(200, now.replace(tzinfo=None).isoformat(timespec="milliseconds"))

    def check(self, query: dict[str, list[str]], body: str) -> str:
        """Return what is not as the service wants it."""
        if self.headers["Content-Type"].split(";")[0] != "text/plain":
            return "content type"
        if query.get("id") != ["1"] or query.get("signature") != ["a,b"]:
            return "the signed part was changed"
        due = (self.server.taken[-1][0] if self.server.taken else self.server.last) + 1
        if query.get("seq") != [str(due)]:
            return f"seq {query.get('seq')}, {due} is due"
        if not body.endswith("\n"):
            return "no line break at the end"
        if urlsplit(self.path).path == "/youtube":
            lines = body.splitlines()
            wrong = [line for line in lines[::2] if not _STAMP.fullmatch(line)]
            return f"times: {wrong}" if wrong or len(lines) % 2 else ""
        return "" if re.fullmatch(r"[a-z]{2}-[A-Z]{2}", query.get("lang", [""])[0]) else "lang"

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def caption_service() -> Iterator[CaptionService]:
    """Both services in one, running."""
    with CaptionService() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    assert server.problems == []

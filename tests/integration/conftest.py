"""A real server on a free port, in a thread of its own, and a plain WebSocket client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from stream_server.config import Config, LimitsConfig, ListenConfig, RecogniserConfig
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.server import Server, build

# More than ten thousand hostile cases over all APIs: `pytest --hypothesis-profile thorough`.
settings.register_profile("thorough", max_examples=1000)

LIMITS = LimitsConfig(
    max_sessions=16, max_message_bytes=262_144, max_upload_bytes=2_000_000, drain_seconds=5.0
)


@contextlib.contextmanager
def _running(
    limits: LimitsConfig = LIMITS,
    keys: tuple[str, ...] = (),
    load: Callable[[RecogniserConfig], Recogniser] = lambda _: FakeRecogniser(step_seconds=0.004),
    *,
    wait: bool = True,
    wyoming_port: int = 0,
    otel: bool = False,
) -> Iterator[Server]:
    config = Config(
        listen=ListenConfig(port=0, api_key=keys, wyoming_port=wyoming_port, otel=otel),
        limits=limits,
        recogniser=RecogniserConfig(model="fake"),
    )
    server, ready = build(config, load), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(server.serve(lambda _: ready.set()))
        except BaseException as error:
            errors.append(error)
        ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        if wait:
            assert ready.wait(20), "the server did not get ready"
        else:
            while server.port == 0:
                ready.wait(0.01)
        yield server
    finally:
        server.stop()
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
        assert not errors, errors


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts a server for the length of a block."""
    return _running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for a module."""
    with _running() as server:
        yield server


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds a TCP port that nobody listens on."""

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    return find


@functools.cache
def _voice(seconds: float = 1.2, pitch: int = 140, seed: int = 0) -> bytes:
    """Something that voice activity detection takes for speech, in silence, as pcm_s16le."""
    t = np.arange(int(16000 * seconds)) / 16000
    harmonics = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 12))
    voice = harmonics * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) * 0.15
    silence = np.zeros(8000)
    noise = np.random.default_rng(seed).normal(0, 1e-4, len(voice) + 16000)
    samples = np.concatenate([silence, voice, silence]) + noise
    return (samples * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="session")
def voice() -> Callable[..., bytes]:
    """Makes a second or so of something like speech."""
    return _voice


class Talk:
    """A client that says what it is told to and keeps what it hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, *frames: object) -> None:
        """Send dicts as JSON text, str as text and bytes as audio; a closed socket is no error."""
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                data = json.dumps(frame) if isinstance(frame, dict) else frame
                await self.socket.send(data)  # type: ignore[arg-type]

    async def hear(self, kind: str) -> dict[str, Any]:
        """Return the next message of ``kind``; what comes before it is kept in ``heard``."""
        async with asyncio.timeout(10):
            while True:
                message = json.loads(await self.socket.recv())
                self.heard.append(message)
                if message["type"] == kind:
                    return message

    async def hear_all(self) -> tuple[list[dict[str, Any]], int]:
        """Return everything up to the close, and the close code."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                async for data in self.socket:
                    self.heard.append(json.loads(data))
        return self.heard, self.socket.close_code or 0


@pytest.fixture
def talk() -> Callable[..., contextlib.AbstractAsyncContextManager[Talk]]:
    """Connects to ``/v1/stream``; with ``start`` given, up to ``ready``."""

    @contextlib.asynccontextmanager
    async def open_talk(server: Server, start: dict[str, Any] | None = None, **options: Any):  # type: ignore[no-untyped-def]
        url = server.url.replace("http", "ws", 1) + "/v1/stream" + options.pop("query", "")
        options.setdefault("subprotocols", ["diffscribe.v1"])
        async with connect(url, max_size=None, compression=None, **options) as socket:
            conversation = Talk(socket)
            if start is not None:
                await conversation.say({"type": "start", **start})
                await conversation.hear("ready")
            yield conversation

    return open_talk

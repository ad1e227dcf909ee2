"""A real server on a free port, in a thread of its own, and a plain WebSocket client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_at_once

from stream_server.config import (
    Config,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    RecogniserConfig,
    SchedulerConfig,
    WebConfig,
)
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.server import Server, build

UNBOUND = SchedulerConfig(busy_share=0.0)
"""Refuses nobody for how busy the machine is with something else while these tests run."""
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
    more_keys: KeysConfig | None = None,
    web: WebConfig | None = None,
    otel: bool = False,
    scheduler: SchedulerConfig = UNBOUND,
) -> Iterator[Server]:
    config = Config(
        listen=ListenConfig(port=0, api_key=keys, wyoming_port=wyoming_port, otel=otel),
        limits=limits,
        scheduler=scheduler,
        recogniser=RecogniserConfig(model="fake"),
        keys=more_keys or KeysConfig(),
        web=web or WebConfig(),
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
            assert ready.wait(110), "the server did not get ready"
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


# --- three people in a room -----------------------------------------------------------------------

SPEECH = Path(__file__).parents[3] / "shared" / "speech"
RATE = 16_000

TURNS = (
    # Who, from which second on, from which set, which clips; kept from training by the recipe of
    # the embedded model. The second, third and fifth begin while somebody else still speaks.
    ("Grid", 0.5, "grid_s1", ("grid_s1_swwp4p",)),
    ("Jack", 3.0, "fsdd", ("3_jackson_1", "1_jackson_3", "4_jackson_2", "7_jackson_0")),
    ("Rob", 5.0, "robotutor", ("ff68b3c5c519",)),
    ("Grid", 9.8, "grid_s1", ("grid_s1_swiu5s",)),
    ("Jack", 10.2, "fsdd", ("9_jackson_4", "5_jackson_5", "2_jackson_6")),
    ("Rob", 14.0, "robotutor", ("ffcdea70318e",)),
)


@dataclass(frozen=True)
class Turn:
    """What somebody says at a time."""

    speaker: str
    start: int
    """Samples."""
    end: int
    """Samples."""
    text: str


@dataclass(frozen=True)
class Conversation:
    """Three people who sometimes speak at once, each on a track of their own."""

    tracks: dict[str, bytes]
    """16 kHz mono s16le, all of one length."""
    turns: tuple[Turn, ...]

    def said(self, speaker: str) -> str:
        """What somebody says in all."""
        return " ".join(turn.text for turn in self.turns if turn.speaker == speaker)

    def mixed(self) -> bytes:
        """All tracks in one."""
        whole = sum(np.frombuffer(track, "<i2").astype(np.int32) for track in self.tracks.values())
        return np.clip(whole, -32768, 32767).astype("<i2").tobytes()

    def errors(self, speaker: str, text: str) -> int:
        """Words of somebody that are wrong, missing or too many in ``text``."""
        from stream_server.evaluation.scoring import Pair, score

        result = score([Pair(self.said(speaker), text, "en")], spelled=True)
        return round(result.word.value * result.words)

    def check_speaker(self, speaker: str, start: float, end: float) -> None:
        """Check that somebody speaks in the middle of a stretch (seconds)."""
        middle = (start + end) / 2 * RATE
        own = [turn for turn in self.turns if turn.speaker == speaker]
        assert any(turn.start - RATE / 2 <= middle <= turn.end + RATE / 2 for turn in own), (
            f"{speaker} says nothing from {start} to {end} s"
        )


@pytest.fixture(scope="session")
def conversation() -> Conversation:
    """Three people in a room; skipped where the recordings are absent."""
    if not SPEECH.is_dir():
        pytest.skip("the recordings are not there: ../shared/speech")
    # Here, for it imports torch, which most of these tests do without.
    from tests.recording import join, left_out

    clips = left_out(SPEECH, {folder for _, _, folder, _ in TURNS})
    spoken, turns = [], []
    for speaker, second, folder, names in TURNS:
        pcm, text = join([clips[folder, f"{name}.opus"] for name in names])
        start = int(second * RATE)
        spoken.append((speaker, start, pcm))
        turns.append(Turn(speaker, start, start + len(pcm), text))
    length = max(turn.end for turn in turns) + RATE
    tracks = {turn.speaker: np.zeros(length, np.int16) for turn in turns}
    for speaker, start, pcm in spoken:
        tracks[speaker][start : start + len(pcm)] = pcm
    return Conversation({name: pcm.tobytes() for name, pcm in tracks.items()}, tuple(turns))


@pytest.fixture(scope="session")
def wyoming_port(free_port: Callable[[], int]) -> int:
    """Where ``hearing`` speaks Wyoming."""
    return free_port()


@pytest.fixture(scope="session")
def hearing(
    load_embedded: Callable[[RecogniserConfig], Recogniser], wyoming_port: int
) -> Iterator[Server]:
    """A server with the embedded model, for everybody."""
    with _running(load=load_embedded, wyoming_port=wyoming_port) as server:
        yield server


@pytest.fixture(scope="session")
def transcribe(hearing: Server) -> Callable[[bytes], str]:
    """Returns what the server hears of a track in a stream of its own.

    Without partials, so that the same audio always gives the same text.
    """

    def hear(audio: bytes) -> str:
        url = hearing.url.replace("http", "ws", 1) + "/v1/stream"
        with connect_at_once(url, max_size=None) as socket:
            socket.send('{"type":"start","partial_interval_ms":0,"language":"en"}')
            for at in range(0, len(audio), 32_000):
                socket.send(audio[at : at + 32_000])
            socket.send('{"type":"stop"}')
            heard = [json.loads(message) for message in socket]
        assert heard[-1]["type"] == "done"
        return " ".join(m["text"].strip() for m in heard if m["type"] == "final")

    return hear


@pytest.fixture(scope="session")
def alone(transcribe: Callable[[bytes], str], conversation: Conversation) -> dict[str, str]:
    """What the server hears of each track of the conversation in a stream of its own."""
    return {name: transcribe(track) for name, track in conversation.tracks.items()}


@pytest.fixture(scope="session")
def until_idle() -> Callable[[Server], Any]:
    """Waits until nobody is inside a server and its engine has nothing to do."""

    async def wait(server: Server) -> None:
        async with asyncio.timeout(10), httpx.AsyncClient(base_url=server.url) as client:
            while True:
                metrics = (await client.get("/metrics")).text
                if "diffscribe_sessions 0.0" in metrics and "diffscribe_rows 0.0" in metrics:
                    return
                await asyncio.sleep(0.02)

    return wait

"""Each bound of the server, and how each API says that it was reached.

The bounds of a session are tried with every API over WebSocket, then with Wyoming, WHIP and files;
those at the door also for how soon they are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as stdlib_socket
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stream_server.config import KeysConfig, LimitsConfig
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.server import Server
from tests.integration.webrtc import make_offer
from tests.wav import to_wav

SECOND = 32_000
"""Bytes of audio at 16 kHz."""


@dataclass(frozen=True)
class Api:
    """An API over WebSocket: how to begin, and how it says what."""

    name: str
    path: str
    first: Sequence[dict[str, Any]] = ()
    limit: tuple[int, str] = (1008, "limit")
    """Close code and reason when a quota is used up; likewise the next two."""
    idle: tuple[int, str] = (1013, "timeout")
    large: tuple[int, str] = (1009, "too_large")
    told: Callable[[dict[str, Any]], object] = lambda message: None
    """What a message says went wrong; none where it says nothing of the kind."""
    limit_told: object = None
    subprotocols: Any = None
    door: Callable[[dict[str, Any]], object] = lambda body: body["error"]["code"]
    """What the refusal of an upgrade says."""
    door_limit: object = "limit"
    door_full: object = "overloaded"


def _error(kind: str, field: str) -> Callable[[dict[str, Any]], object]:
    def told(message: dict[str, Any]) -> object:
        return message.get(field) if kind in (message.get("type"), message.get("message")) else None

    return told


RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
APIS = [
    Api(
        "native", "/v1/stream", [{"type": "start"}], subprotocols=["diffscribe.v1"],
        told=_error("error", "code"), limit_told="limit",
    ),
    Api("openai", "/v1/realtime"),
    Api(
        "deepgram", "/v1/listen?encoding=linear16&sample_rate=16000",
        idle=(1011, "NET-0001: no audio and no KeepAlive came in time"),
        told=_error("Error", "variant"), limit_told="limit",
        door=lambda body: body["err_code"],
        door_limit="TOO_MANY_REQUESTS", door_full="SERVICE_UNAVAILABLE",
    ),
    Api(
        "flux", "/v2/listen?encoding=linear16&sample_rate=16000&model=flux-general-en",
        idle=(1011, "NET-0001: no audio came in time"),
        told=_error("Error", "code"), limit_told="LIMIT",
        door=lambda body: body["err_code"],
        door_limit="TOO_MANY_REQUESTS", door_full="SERVICE_UNAVAILABLE",
    ),
    Api(
        "assemblyai", "/v3/ws?sample_rate=16000", limit=(3008, "limit"), idle=(4031, "timeout"),
        told=_error("Error", "error_code"), limit_told=3008,
        door=lambda body: body["error_code"], door_limit=3008, door_full=1013,
    ),
    Api(
        "speechmatics", "/v2", [{"message": "StartRecognition", "audio_format": RAW}],
        limit=(4007, "timelimit_exceeded"), idle=(4006, "idle_timeout"),
        large=(1009, "buffer_error"), told=_error("Error", "type"),
        limit_told="timelimit_exceeded",
        door=lambda body: body["type"], door_limit="timelimit_exceeded",
        door_full="quota_exceeded",
    ),
    Api("vosk", "/vosk", [{"config": {"sample_rate": 16000}}]),
]  # fmt: skip
EACH = pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)


def dial(server: Server, api: Api, key: str | None = None, **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    url = server.url.replace("http", "ws", 1) + api.path
    return connect(
        url, subprotocols=api.subprotocols, additional_headers=headers, max_size=None,
        compression=None, **options,
    )  # fmt: skip


async def begin(socket: ClientConnection, api: Api) -> None:
    for message in api.first:
        await socket.send(json.dumps(message))


async def play(server: Server, api: Api, seconds: float, piece: int = SECOND // 10, **options: Any):
    """Send silence as fast as it is taken; return close code and reason, and what was told."""
    told: list[object] = []
    async with dial(server, api, **options) as socket:

        async def speak() -> None:
            with contextlib.suppress(ConnectionClosed):
                await begin(socket, api)
                for _ in range(int(seconds * SECOND / piece)):
                    await socket.send(bytes(piece))

        speaking = asyncio.create_task(speak())
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                async for text in socket:
                    told.append(api.told(json.loads(text)))
        speaking.cancel()
    return (socket.close_code, socket.close_reason), [each for each in told if each is not None]


# --- within a session -----------------------------------------------------------------------------

OVER = {
    # bound: options, and the seconds of audio that are sent at once
    "max_session_ms": ({"max_session_ms": 1_000}, 3.0),
    "max_open_ms": ({"max_open_ms": 400}, 0.5),
    "max_speed": ({"max_speed": 1.0, "max_burst_ms": 1_000}, 3.0),
}


@pytest.fixture(scope="module", params=OVER)
def bounded(running, request):
    """A server with one bound, and the audio that is too much for it."""
    options, seconds = OVER[request.param]
    with running(LimitsConfig(**options)) as server:
        yield server, seconds


@EACH
async def test_what_a_session_may_do_is_bounded_in_each_api(bounded, api: Api) -> None:
    server, seconds = bounded
    end, told = await play(server, api, seconds)
    assert end == api.limit
    assert told == ([] if api.limit_told is None else [api.limit_told])


@pytest.fixture(scope="module")
def impatient(running):
    """A server that waits for nobody."""
    with running(LimitsConfig(idle_timeout_ms=300, max_message_bytes=4_000)) as server:
        yield server


@EACH
async def test_a_silent_client_is_closed_in_each_api(impatient, api: Api) -> None:
    end, _ = await play(impatient, api, 0.2)
    assert end == api.idle


@EACH
async def test_a_large_message_is_refused_in_each_api(impatient, api: Api) -> None:
    end, _ = await play(impatient, api, 0.2, piece=4_800)
    assert end == api.large


async def test_audio_at_the_pace_of_speech_is_never_too_fast(running) -> None:
    with running(LimitsConfig(max_speed=1.0, max_burst_ms=1_000)) as server:
        async with dial(server, APIS[0]) as socket:
            await begin(socket, APIS[0])
            for _ in range(20):
                await socket.send(bytes(SECOND // 10))
                await asyncio.sleep(0.1)
            await socket.send('{"type": "stop"}')
            with contextlib.suppress(ConnectionClosed):
                async for _ in socket:
                    pass
        assert socket.close_code == 1000


async def test_audio_that_waits_is_bounded_by_not_reading_on(running, voice) -> None:
    stuck = LimitsConfig(max_unprocessed_ms=1_000)
    with running(stuck, load=lambda _: FakeRecogniser(step_seconds=0.6)) as server:
        async with dial(server, APIS[0]) as socket:
            await begin(socket, APIS[0])
            taken = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while taken < 600 * SECOND:
                        await socket.send(voice())
                        taken += len(voice())
            assert taken < 600 * SECOND, "what the buffers of two sockets hold has an end"
            socket.transport.abort()


async def test_a_client_that_takes_nothing_is_paused_then_told_why(running) -> None:
    with running(LimitsConfig(send_timeout_ms=5_000)) as server, stdlib_socket.socket() as small:
        for buffer in (stdlib_socket.SO_SNDBUF, stdlib_socket.SO_RCVBUF):  # soon full
            small.setsockopt(stdlib_socket.SOL_SOCKET, buffer, 65_536)
        small.connect(("127.0.0.1", server.port))
        async with dial(server, APIS[0], sock=small) as socket:
            await begin(socket, APIS[0])
            socket.transport.pause_reading()
            flush = json.dumps({"type": "flush", "id": "x" * 60_000})
            began, slowest = time.monotonic(), 0.0
            while time.monotonic() < began + 8.0 and slowest < 0.5:
                slowest = await _time_of(socket.send(flush), 0.5)  # each answer is as long
            assert slowest >= 0.5, "the server reads on, whatever waits to be sent"
            async with asyncio.timeout(15), httpx.AsyncClient(base_url=server.url) as http:
                while (await http.get("/readyz")).json()["sessions"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            socket.transport.resume_reading()
            with contextlib.suppress(ConnectionClosed):
                async for _ in socket:
                    pass
        assert (socket.close_code, socket.close_reason) == (1013, "timeout")


async def _time_of(work: Awaitable[None], most: float) -> float:
    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most):
            await work
    return time.monotonic() - began


# --- of a key -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metered(running):
    """A server of which each key may hear three seconds and have one session."""
    names = [api.name for api in APIS]
    with running(
        keys=tuple(f"{kind}-{name}" for kind in "ab" for name in (*names, "file", "whip")),
        more_keys=KeysConfig(max_key_sessions=1, max_key_audio_s=3),
    ) as server:
        yield server


async def refusal(server: Server, api: Api, key: str | None = None) -> tuple[int, object]:
    """Be refused, and return status and code."""
    with pytest.raises(InvalidStatus) as caught:
        async with dial(server, api, key=key):
            pass
    response = caught.value.response
    return response.status_code, api.door(json.loads(response.body or b"{}"))


@EACH
async def test_the_sessions_of_a_key_are_bounded_in_each_api(metered, api: Api) -> None:
    async with dial(metered, api, key=f"a-{api.name}") as socket:
        await begin(socket, api)
        assert await refusal(metered, api, f"a-{api.name}") == (429, api.door_limit)
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(InvalidStatus):
                async with dial(metered, api, key=f"a-{api.name}"):
                    break
            await asyncio.sleep(0.02)


@EACH
async def test_the_audio_of_a_key_is_bounded_in_each_api(metered, api: Api) -> None:
    end, told = await play(metered, api, 6.0, key=f"b-{api.name}")
    assert end == api.limit
    assert told == ([] if api.limit_told is None else [api.limit_told])
    assert await refusal(metered, api, f"b-{api.name}") == (429, api.door_limit)


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/audio/transcriptions", lambda body: body["error"]["code"]),
        ("/v1/listen", lambda body: body["err_code"]),
    ],
)
async def test_the_audio_of_a_key_counts_in_files(metered, speech_file, path, read) -> None:
    key = "a-file" if "audio" in path else "b-file"
    async with httpx.AsyncClient(base_url=metered.url, headers={"X-API-Key": key}) as http:
        answers = [await http.post(path, content=speech_file) for _ in range(3)]
    assert [answer.status_code for answer in answers][-1] == 429
    assert read(answers[-1].json()) in ("limit", "TOO_MANY_REQUESTS")
    assert answers[0].status_code == 200


async def test_the_sessions_of_a_key_count_over_webrtc(metered) -> None:
    async with httpx.AsyncClient(base_url=metered.url, headers={"X-API-Key": "a-whip"}) as http:
        offer = await make_offer()
        first = await http.post("/whip", content=offer, headers={"Content-Type": "application/sdp"})
        assert first.status_code == 201
        second = await http.post(
            "/whip", content=offer, headers={"Content-Type": "application/sdp"}
        )
        assert (second.status_code, second.json()["error"]["code"]) == (429, "limit")
        assert int(second.headers["Retry-After"]) > 0
        await http.delete(first.headers["Location"])


async def test_clients_without_a_key_are_bounded_together(running, free_port) -> None:
    port = free_port()
    with running(wyoming_port=port, more_keys=KeysConfig(max_key_audio_s=1)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = {"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}}
        line = json.dumps({**head, "payload_length": SECOND}).encode() + b"\n"
        writer.write((line + bytes(SECOND)) * 3)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
    assert b'"code":"limit"' in answer.replace(b" ", b"")


# --- at the door ----------------------------------------------------------------------------------


@pytest.mark.alone
@EACH
async def test_refusals_at_the_door_come_at_once(running, api: Api) -> None:
    with running(LimitsConfig(max_sessions=1)) as server:
        async with dial(server, APIS[0]) as socket:
            await begin(socket, APIS[0])
            seconds = []
            for _ in range(9):
                began = time.monotonic()
                assert await refusal(server, api) == (503, api.door_full)
                seconds.append(time.monotonic() - began)
    assert statistics.median(seconds) < 0.1, seconds


@pytest.fixture(scope="session")
def speech_file(voice) -> bytes:
    """Two seconds as a WAV file."""
    return to_wav(voice())

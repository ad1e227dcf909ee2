"""The bot joins rooms of aiortc: by WHEP, by its own offer, and by answering the room's."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import uvicorn
from aiortc import AudioStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs.opus import OpusDecoder, OpusEncoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_client.errors import ConnectionFailed
from stream_client.meeting import Meeting
from stream_client.webrtc_bot import RoomBot
from stream_protocol.messages import Start

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
DEBIAN_PYTHON = "/usr/bin/python3"
RATE = 16_000
FRAME = 320
"""Samples of 20 ms."""
START = Start(words=True, language="en", partial_interval_ms=0)


class Voice(AudioStreamTrack):
    """A track that says a recording at the pace of speech, then ends."""

    def __init__(self, pcm: bytes, began: float | None = None) -> None:
        super().__init__()
        self._samples = np.frombuffer(pcm, "<i2")
        self._at = 0
        self._began = began

    def frame(self, at: int) -> av.AudioFrame:
        piece = np.zeros(FRAME, "<i2")
        own = self._samples[at : at + FRAME]
        piece[: len(own)] = own
        frame = av.AudioFrame.from_ndarray(piece.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts = RATE, at
        frame.time_base = fractions.Fraction(1, RATE)
        return frame

    async def recv(self) -> av.AudioFrame:
        if self._at >= len(self._samples):
            self.stop()
            raise MediaStreamError
        frame = self.frame(self._at)
        self._began = self._began or time.monotonic()
        await asyncio.sleep(max(0.0, self._began + self._at / RATE - time.monotonic()))
        self._at += FRAME
        return frame


class Room:
    """A room that plays a voice to whoever asks by WHEP, one address for each."""

    def __init__(self, tracks: dict[str, bytes]) -> None:
        self._tracks = tracks
        self._connections: dict[str, RTCPeerConnection] = {}
        self.deleted: list[str] = []
        self.tokens: set[str] = set()
        self.url = ""

    async def play(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._tracks:
            return Response(status_code=404)
        self.tokens.add(request.headers.get("authorization", ""))
        connection = self._connections[name] = RTCPeerConnection()
        offer = (await request.body()).decode()
        assert request.headers["content-type"] == "application/sdp"
        await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        connection.addTrack(Voice(self._tracks[name]))
        await connection.setLocalDescription(await connection.createAnswer())
        headers = {"Location": f"/whep/sessions/{name}"}
        sdp = connection.localDescription.sdp
        return Response(sdp, 201, headers, media_type="application/sdp")

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.deleted.append(name)
        await self._connections[name].close()
        return Response(status_code=200)

    @contextlib.asynccontextmanager
    async def open(self, port: int) -> AsyncIterator[Room]:
        routes = [
            Route("/whep/sessions/{name}", self.delete, methods=["DELETE"]),
            Route("/whep/{name}", self.play, methods=["POST"]),
        ]
        async with serving(port, *routes):
            self.url = f"http://127.0.0.1:{port}/whep"
            yield self
        for connection in self._connections.values():
            await connection.close()


@contextlib.asynccontextmanager
async def serving(port: int, *routes: Route) -> AsyncIterator[None]:
    """Serve HTTP for the length of a block."""
    app = Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await task


def through_opus(pcm: bytes) -> bytes:
    """What arrives of a track: 20 ms after 20 ms encoded and decoded as aiortc does it."""
    encoder, decoder = OpusEncoder(), OpusDecoder()
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    voice, arrived = Voice(pcm, began=-1e9), bytearray()
    for at in range(0, len(pcm) // 2, FRAME):
        payloads, stamp = encoder.encode(voice.frame(at))
        for payload in payloads:
            for frame in decoder.decode(JitterFrame(data=payload, timestamp=stamp)):
                frame.pts = None
                for piece in resampler.resample(frame):
                    arrived += piece.to_ndarray().tobytes()
    return bytes(arrived)


@pytest.fixture(scope="module")
def alone(transcribe, conversation) -> dict[str, str]:
    """What the server hears in single streams of what arrives of each track."""
    return {name: transcribe(through_opus(track)) for name, track in conversation.tracks.items()}


def address(server: Any) -> str:
    return server.url.replace("http", "ws", 1) + "/v1/stream"


async def drain(meeting: Meeting) -> None:
    async for _ in meeting:
        pass


def check(meeting: Meeting, conversation: Any, alone: dict[str, str]) -> None:
    """Check that everybody said their own words, at their time, as well as in a single stream."""
    assert meeting.failures == []
    said = meeting.timeline.utterances
    assert {each.speaker for each in said} == set(conversation.tracks)
    # The clock of the meeting runs before the room plays.
    lag = said[0].words[0].start - conversation.turns[0].start
    assert 0 < lag < 5 * RATE
    for each in said:
        start, end = (each.start - lag) / RATE, (each.end - lag) / RATE
        conversation.check_speaker(each.speaker, start, end)
    for name in conversation.tracks:
        text = " ".join(each.text for each in said if each.speaker == name)
        allowed = conversation.errors(name, alone[name])
        assert conversation.errors(name, text) <= allowed, (name, text, alone[name])


@pytest.mark.model
@pytest.mark.speech
async def test_three_people_by_whep(hearing, conversation, alone, free_port) -> None:
    async with (
        Room(conversation.tracks).open(free_port()) as room,
        Meeting(address(hearing), START) as meeting,
    ):
        reading = asyncio.create_task(drain(meeting))
        async with RoomBot(meeting) as bot:
            for name in conversation.tracks:
                await bot.join_whep(f"{room.url}/{name}", name=name, token="sesame")
            async with asyncio.timeout(60):
                await asyncio.sleep(1)
                # A track does not end by itself in WebRTC: the room is left when all was said.
                await asyncio.sleep(len(conversation.mixed()) / 2 / RATE)
        await meeting.end()
        async with asyncio.timeout(20):
            await reading
    check(meeting, conversation, alone)
    assert sorted(room.deleted) == sorted(conversation.tracks)
    assert room.tokens == {"Bearer sesame"}


@pytest.mark.model
@pytest.mark.speech
async def test_three_tracks_of_one_room_that_offers(hearing, conversation, alone) -> None:
    """Two at first; the third joins later, which the room says by a new offer."""
    room, began = RTCPeerConnection(), time.monotonic() + 1
    first, *later = conversation.tracks
    async with Meeting(address(hearing), START) as meeting:
        reading = asyncio.create_task(drain(meeting))
        async with RoomBot(meeting) as bot:

            async def publish(*names: str) -> None:
                for name in names:
                    sender = room.addTrack(Voice(conversation.tracks[name], began))
                    sender._stream_id = name  # as rooms name a stream after who publishes it
                await room.setLocalDescription(await room.createOffer())
                answer = await bot.answer(room.localDescription.sdp)
                assert "a=setup:passive" in answer, "rooms with RSA certificates begin"
                await room.setRemoteDescription(RTCSessionDescription(answer, "answer"))

            await publish(first)
            await publish(*later)
            await asyncio.sleep(began + len(conversation.mixed()) / 2 / RATE - time.monotonic())
            await room.close()
            async with asyncio.timeout(10):
                await bot.wait()
        await meeting.end()
        async with asyncio.timeout(20):
            await reading
    check(meeting, conversation, alone)


async def test_the_bot_may_offer_too(server, voice) -> None:
    room = RTCPeerConnection()

    async def exchange(offer: str) -> str:
        await room.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for number in range(2):
            room.addTrack(Voice(voice(1.2, 110 + 60 * number) * 2))
        await room.setLocalDescription(await room.createAnswer())
        return str(room.localDescription.sdp)

    async with Meeting(address(server)) as meeting:
        reading = asyncio.create_task(drain(meeting))
        async with RoomBot(meeting, lambda stream, mid: f"track {mid}") as bot:
            await bot.join(exchange, tracks=2)
            await asyncio.sleep(6)
            await room.close()
        await meeting.end()
        async with asyncio.timeout(10):
            await reading
    assert set(meeting.timeline.speakers) == {"track 0", "track 1"}
    assert {each.speaker for each in meeting.timeline.utterances} == {"track 0", "track 1"}


def has_gstreamer() -> bool:
    if not Path(DEBIAN_PYTHON).exists():
        return False
    asked = 'import gi; gi.require_version("GstWebRTC", "1.0")'
    done = subprocess.run([DEBIAN_PYTHON, "-c", asked], capture_output=True, env={"LANG": "C"})
    return done.returncode == 0


async def test_a_room_of_gstreamer_with_its_rsa_certificate(server, free_port) -> None:
    """GStreamer makes the offers, as an SFU that is no aiortc."""
    if not await asyncio.to_thread(has_gstreamer):
        pytest.skip("no GStreamer with Python bindings here; .ci/run has the Debian packages")
    script, port = Path(__file__).with_name("gstreamer_whip.py"), free_port()
    async with Meeting(address(server)) as meeting:
        reading = asyncio.create_task(drain(meeting))
        async with RoomBot(meeting, lambda stream, mid: "GStreamer") as bot:

            async def take(request: Request) -> Response:
                answer = await bot.answer((await request.body()).decode())
                return Response(answer, 201, {"Location": "/room/1"})

            async def hang_up(request: Request) -> Response:
                return Response(status_code=200)

            routes = [
                Route("/room", take, methods=["POST"]),
                Route("/room/1", hang_up, methods=["DELETE"]),
            ]
            async with serving(port, *routes):
                process = await asyncio.create_subprocess_exec(
                    DEBIAN_PYTHON, str(script), str(CLIP), f"http://127.0.0.1:{port}/room", "10",
                    stderr=asyncio.subprocess.PIPE, env={"LANG": "C"},
                )  # fmt: skip
                async with asyncio.timeout(60):
                    _, errors = await process.communicate()
                assert process.returncode == 0, errors
        await meeting.end()
        async with asyncio.timeout(10):
            await reading
    said = meeting.timeline.utterances
    assert [each.speaker for each in said] == ["GStreamer"] * 3
    # The clip says three things, the second 3.1 s after the first.
    apart = (said[1].words[0].start - said[0].words[0].start) / RATE
    assert apart == pytest.approx(3.1, abs=0.4)


async def test_a_room_that_is_not_there(server, voice, free_port) -> None:
    async with Meeting(address(server)) as meeting, RoomBot(meeting) as bot:
        with pytest.raises(ConnectionFailed):
            await bot.join_whep(f"http://127.0.0.1:{free_port()}/whep/x")
        async with Room({}).open(free_port()) as room:
            with pytest.raises(ConnectionFailed, match="404"):
                await bot.join_whep(f"{room.url}/x")
        with pytest.raises(ConnectionFailed, match="offer"):
            await bot.answer("v=0\r\nm=audio nine UDP/TLS/RTP/SAVPF x\r\n")

        async def answer_nothing(offer: str) -> str:
            return "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"

        with pytest.raises(ConnectionFailed, match="answer"):
            await bot.join(answer_nothing)


async def test_the_command_joins_until_it_is_interrupted(
    server, voice, free_port, tmp_path
) -> None:
    out = tmp_path / "minutes.md"
    async with Room({"anna": voice() * 9, "ben": voice() * 9}).open(free_port()) as room:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from stream_client.cli import main; main()", "join",
            f"Anna={room.url}/anna", f"Ben={room.url}/ben",
            "--url", address(server), "--out", str(out),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).decode() for _ in range(3)]
            process.send_signal(signal.SIGINT)
            rest, errors = await process.communicate()
    assert process.returncode == 0, errors
    said = "".join(lines) + rest.decode()
    assert "] Anna: " in said
    assert "] Ben: " in said
    assert sorted(room.deleted) == ["anna", "ben"]
    assert "**Anna** (" in out.read_text()


async def test_who_finds_no_place_is_a_failure(running, voice) -> None:
    room = RTCPeerConnection()
    with running(keys=("sesame",)) as server:
        async with Meeting(address(server)) as meeting:
            async with RoomBot(meeting) as bot:
                room.addTrack(Voice(voice()))
                await room.setLocalDescription(await room.createOffer())
                answer = await bot.answer(room.localDescription.sdp)
                await room.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                async with asyncio.timeout(10):
                    await bot.wait()
            await room.close()
        [failure] = meeting.failures
        assert "unauthorized" in str(failure.error)

"""Publishers over WebRTC, and followers of what they said, for the tests beside this file."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer

from stream_server.config import LimitsConfig
from stream_server.server import Server

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
SDP = {"Content-Type": "application/sdp"}
LIMITS = LimitsConfig(media_timeout_ms=3000)


@contextlib.asynccontextmanager
async def publishing(
    server: Server, path: str = "/whip", file: Path = CLIP
) -> AsyncIterator[tuple[RTCPeerConnection, httpx.AsyncClient, httpx.Response]]:
    """Publish a file by WHIP, as aiortc does; gives the connection, an HTTP client, the answer."""
    connection = RTCPeerConnection()
    connection.addTransceiver(MediaPlayer(str(file)).audio, direction="sendonly")
    try:
        await connection.setLocalDescription(await connection.createOffer())
        offer = connection.localDescription.sdp
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            answer = await http.post(path, content=offer, headers=SDP)
            assert answer.status_code == 201, answer.text
            await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            yield connection, http, answer
    finally:
        await connection.close()


async def make_offer() -> str:
    """An offer of audio by somebody who is gone before it is answered."""
    connection = RTCPeerConnection()
    connection.addTransceiver("audio", direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    sdp = str(connection.localDescription.sdp)
    await connection.close()
    return sdp


def session_of(answer: httpx.Response) -> str:
    return answer.headers["Location"].rpartition("/")[2]


async def follow(http: httpx.AsyncClient, session: str, last: str = "") -> list[tuple[str, Any]]:
    """Every event of a session up to its end, with its id."""
    events = []
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", f"/v1/sessions/{session}/events", headers=headers) as stream:
        number = ""
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                number = line.removeprefix("id: ")
            if line.startswith("data: "):
                events.append((number, json.loads(line.removeprefix("data: "))))
    return events


async def inside(http: httpx.AsyncClient) -> int:
    return int((await http.get("/readyz")).json()["sessions"])


def cut(connection: RTCPeerConnection) -> None:
    """Close the sockets of a connection, without a goodbye of any kind."""
    for transceiver in connection.getTransceivers():
        for protocol in transceiver.sender.transport.transport._connection._protocols:
            protocol.transport.abort()


async def offer_with_channel(
    server: Server, file: Path = CLIP, seconds: float = 8.3, **start: Any
) -> list[dict[str, Any]]:
    """Send a file by an exchange of JSON; return what the data channel brought.

    Args:
        server: a running one.
        file: what is played.
        seconds: after which the client says ``stop``.
        start: fields of it.
    """
    connection = RTCPeerConnection()
    connection.addTransceiver(MediaPlayer(str(file)).audio, direction="sendonly")
    channel = connection.createDataChannel("transcripts")
    heard: list[dict[str, Any]] = []
    done = asyncio.Event()

    @channel.on("message")
    def take(text: str) -> None:
        heard.append(json.loads(text))
        if heard[-1]["type"] == "done":
            done.set()

    try:
        await connection.setLocalDescription(await connection.createOffer())
        body = {"sdp": connection.localDescription.sdp, "type": "offer", "start": start}
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            answer = (await http.post("/v1/webrtc/offer", json=body)).json()
        await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        await asyncio.sleep(seconds)
        channel.send('{"type":"stop"}')
        async with asyncio.timeout(10):
            await done.wait()
        assert heard[0]["session"] == answer["session"]
        return heard
    finally:
        await connection.close()

"""aiortc publishes a clip to a real server: WHIP and the exchange of JSON, words and their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from websockets.asyncio.client import connect

from stream_server.config import LimitsConfig, RecogniserConfig
from stream_server.recogniser.interface import Recogniser
from stream_server.server import load_recogniser

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
SDP = {"Content-Type": "application/sdp"}
LIMITS = LimitsConfig(media_timeout_ms=3000)


@contextlib.asynccontextmanager
async def publishing(server, path: str = "/whip", **headers: str) -> AsyncIterator[Any]:
    """Publish the clip by WHIP; gives the connection, the client and the answer."""
    connection = RTCPeerConnection()
    connection.addTransceiver(MediaPlayer(str(CLIP)).audio, direction="sendonly")
    try:
        await connection.setLocalDescription(await connection.createOffer())
        offer = connection.localDescription.sdp
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            answer = await http.post(path, content=offer, headers={**SDP, **headers})
            assert answer.status_code == 201, answer.text
            await connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            yield connection, http, answer
    finally:
        await connection.close()


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


async def test_whip_gives_words_to_every_kind_of_viewer(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server, "/whip/stage?language=en") as (_, http, answer):
            session = session_of(answer)
            following = [asyncio.create_task(follow(http, each)) for each in (session, "stage")]
            url = server.url.replace("http", "ws", 1) + f"/v1/sessions/{session}/watch"
            async with connect(url, subprotocols=["diffscribe.v1"]) as socket:
                assert socket.subprotocol == "diffscribe.v1"
                async with asyncio.timeout(10):
                    while json.loads(await socket.recv())["type"] != "final":
                        pass
                path = f"/v1/sessions/{session}/captions.vtt"
                assert "-->" in (await http.get(path)).text, "while it runs"
                assert await inside(http) == 1
                await asyncio.sleep(6)
                assert (await http.delete(answer.headers["Location"])).status_code == 200
                async with asyncio.timeout(10):
                    watched = [json.loads(text) async for text in socket]
            events, named = await asyncio.gather(*following)
            messages = [message for _, message in events]
            assert messages == [message for _, message in named]
            finals = [message for message in messages if message["type"] == "final"]
            assert watched[-1]["type"] == "done"
            assert watched[-1] == messages[-1]
            assert messages[0]["type"] == "ready"
            assert messages[0]["resume_token"] == ""
            # The clip says three things, at these times.
            assert len(finals) == 3
            for final, second in zip(finals, (0.4, 3.5, 5.8), strict=True):
                assert final["words"]
                assert abs(final["words"][0]["start"] / 16000 - second) < 0.4
            await http.delete(answer.headers["Location"])
            again = await follow(http, session, events[-4][0])
            assert [number for number, _ in again] == [number for number, _ in events[-3:]]
            srt = (await http.get("/v1/sessions/stage/captions.srt")).text
            assert srt.count("-->") >= 3


async def test_many_viewers_and_one_that_reads_nothing(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server) as (_, http, answer):
            url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{session_of(answer)}/watch"

            async def view() -> list[str]:
                async with connect(url) as socket:
                    return [json.loads(text)["type"] async for text in socket]

            async with connect(url, max_queue=1):  # it never reads
                viewers = [asyncio.create_task(view()) for _ in range(100)]
                await asyncio.sleep(5)
                await http.delete(answer.headers["Location"])
                async with asyncio.timeout(20):
                    seen = await asyncio.gather(*viewers)
            assert all(kinds[-1] == "done" for kinds in seen)
            assert {kinds.count("final") for kinds in seen} == {seen[0].count("final")}
            assert seen[0].count("final") >= 2


async def test_a_native_session_can_be_watched_too(server, talk, voice) -> None:
    async with talk(server, {}) as conversation:
        session = conversation.heard[0]["session"]
        url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{session}/watch"
        async with connect(url) as socket:
            await conversation.say(voice(), {"type": "stop"})
            heard, _ = await conversation.hear_all()
            watched = [json.loads(text) async for text in socket]
    finals = [message for message in heard if message["type"] == "final"]
    assert [message for message in watched if message["type"] == "final"] == finals
    assert watched[-1] == heard[-1]


async def test_watching_wants_a_key_and_a_session(running) -> None:
    with running(keys=("sesame",)) as server:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/no/watch"
        for options, status in (({}, 401), ({"additional_headers": {"X-API-Key": "sesame"}}, 404)):
            with pytest.raises(Exception, match=str(status)):
                async with connect(url, **options):
                    pass
        key = "diffscribe.key.c2VzYW1l"
        stream = server.url.replace("http", "ws", 1) + "/v1/stream"
        async with connect(stream, subprotocols=["diffscribe.v1", key]) as socket:
            assert socket.subprotocol == "diffscribe.v1"


async def test_a_cut_connection_gives_its_finals_and_its_place_back(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server) as (connection, http, answer):
            following = asyncio.create_task(follow(http, session_of(answer)))
            await asyncio.sleep(2.2)  # in the middle of the first words
            for transceiver in connection.getTransceivers():
                for protocol in transceiver.sender.transport.transport._connection._protocols:
                    protocol.transport.abort()  # no goodbye of any kind
            async with asyncio.timeout(10):
                messages = [message for _, message in await following]
                while await inside(http):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            finals = [message for message in messages if message["type"] == "final"]
            assert len(finals) == 1
            assert finals[0]["text"]
            assert messages[-1]["type"] == "done"
            assert (await http.delete(answer.headers["Location"])).status_code == 404
            metrics = (await http.get("/metrics")).text
            assert 'diffscribe_sessions_ended_total{outcome="completed"} 1.0' in metrics
            assert "diffscribe_sessions 0.0" in metrics


async def test_a_stopping_server_ends_calls_and_viewers(running) -> None:
    with running(LimitsConfig(drain_seconds=0.2, media_timeout_ms=3000)) as server:
        async with publishing(server) as (_, http, answer):
            following = asyncio.create_task(follow(http, session_of(answer)))
            await asyncio.sleep(1)
            server.stop()
            async with asyncio.timeout(10):
                messages = [message for _, message in await following]
            kinds = [(message["type"], message.get("code")) for message in messages]
            assert ("notice", "draining") in kinds
            assert kinds[-1] == ("error", "draining")


async def offer_with_channel(server, **start: Any) -> list[dict[str, Any]]:
    """Send the clip by an exchange of JSON; return what the data channel brought."""
    connection = RTCPeerConnection()
    connection.addTransceiver(MediaPlayer(str(CLIP)).audio, direction="sendonly")
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
        await asyncio.sleep(8.3)
        channel.send('{"type":"stop"}')
        async with asyncio.timeout(10):
            await done.wait()
        assert heard[0]["session"] == answer["session"]
        return heard
    finally:
        await connection.close()


async def test_the_exchange_of_json_with_a_data_channel(running) -> None:
    with running(LIMITS) as server:
        heard = await offer_with_channel(server, words=True, partial_interval_ms=200)
        kinds = [message["type"] for message in heard]
        assert kinds.count("final") == 3
        assert kinds.count("partial") >= 3


DEBIAN_PYTHON = "/usr/bin/python3"


def run_debian(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Debian's own Python, which has GStreamer's bindings, away from this environment."""
    return subprocess.run(
        [DEBIAN_PYTHON, *arguments], capture_output=True, text=True, timeout=60, env={"LANG": "C"}
    )


def has_gstreamer() -> bool:
    """Whether GStreamer's bindings are there."""
    asked = 'import gi; gi.require_version("GstWebRTC", "1.0")'
    return Path(DEBIAN_PYTHON).exists() and not run_debian("-c", asked).returncode


async def test_gstreamer_publishes_with_its_rsa_certificate(running) -> None:
    if not await asyncio.to_thread(has_gstreamer):
        pytest.skip("no GStreamer with Python bindings here; .ci/run has the Debian packages")
    script = str(Path(__file__).with_name("gstreamer_whip.py"))
    with running(LIMITS) as server:
        url = f"{server.url}/whip/stage"
        done = await asyncio.to_thread(run_debian, script, str(CLIP), url, "10")
        assert "/whip/sessions/" in done.stdout, done.stderr
        async with httpx.AsyncClient(base_url=server.url) as http:
            events = await follow(http, "stage")
    finals = [message for _, message in events if message["type"] == "final"]
    assert len(finals) == 3
    assert abs(finals[1]["words"][0]["start"] / 16000 - 3.5) < 0.4


@pytest.mark.model
async def test_the_embedded_model_hears_what_webrtc_brings(running, talk) -> None:
    def load(_: object) -> Recogniser:
        return load_recogniser(RecogniserConfig(model="embedded", device="cpu", threads=1))

    words = (CLIP.parent / "digits.txt").read_text().split()
    with running(LIMITS, load=load) as server:
        heard = await offer_with_channel(server, language="en")
        finals = [message["text"] for message in heard if message["type"] == "final"]
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            upload = await http.post("/v1/audio/transcriptions", files={"file": CLIP.read_bytes()})
    # WebRTC must not lose words that the same model hears in the file.
    got, file = " ".join(finals).split(), upload.json()["text"].split()
    hits = sum(word in got for word in words)
    assert len(finals) == 3
    assert hits >= sum(word in file for word in words) - 2
    assert hits >= 3

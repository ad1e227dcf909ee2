"""Utterances over a TCP port of its own, and what is asked between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.admission import Admission
from stream_server.transports.wyoming import WyomingServer, info_event

FORMAT = {"rate": 16000, "width": 2, "channels": 1}


class Client:
    """Says and hears events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, kind: str, payload: bytes = b"", **data: object) -> None:
        header = {"type": kind, "data": data, "payload_length": len(payload)}
        self.writer.write(json.dumps(header).encode() + b"\n" + payload)

    async def hear(self) -> tuple[str, Any]:
        async with asyncio.timeout(5):
            line = await self.reader.readline()
            if not line:
                return "", None
            header = json.loads(line)
            data = await self.reader.readexactly(header.get("data_length", 0))
        return header["type"], json.loads(data or b"{}")

    async def hear_until(self, kind: str) -> list[tuple[str, Any]]:
        heard = [await self.hear()]
        while heard[-1][0] != kind:
            assert heard[-1][0], heard
            heard.append(await self.hear())
        return heard


@contextlib.asynccontextmanager
async def serving(admission: Admission, limits: LimitsConfig) -> AsyncIterator[int]:
    server = WyomingServer(admission, Metrics(), limits, info_event(FAKE_INFO, "9.9"))
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(listener)
    try:
        yield listener.getsockname()[1]
    finally:
        await server.close()


@pytest.fixture
def connect(make_services):
    """Connects to a server of its own."""

    @contextlib.asynccontextmanager
    async def open_client(limits: LimitsConfig | None = None, places: int = 4):  # type: ignore[no-untyped-def]
        limits = limits or LimitsConfig(max_message_bytes=100_000)
        admission = Admission(places)
        admission.open(make_services(limits=limits), lambda: True)
        async with serving(admission, limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            yield Client(reader, writer)
            writer.close()

    return open_client


async def test_what_is_here_is_described(connect) -> None:
    async with connect() as client:
        client.say("describe")
        kind, info = await client.hear()
        assert kind == "info"
        (program,) = info["asr"]
        assert program["supports_transcript_streaming"]
        assert program["models"][0]["languages"] == ["en"]
        client.say("ping", text="x")
        assert await client.hear() == ("pong", {"text": "x"})


def pieces(wav: bytes) -> list[bytes]:
    audio = wav[44:]
    return [audio[at : at + 6400] for at in range(0, len(audio), 6400)]


async def test_utterances_follow_each_other(connect, speech) -> None:
    async with connect() as client:
        texts = []
        for _ in range(2):
            client.say("transcribe", language="en-US")
            client.say("audio-start", **FORMAT)
            client.say("describe")
            for piece in pieces(speech(1.2, 0.8)):
                client.say("audio-chunk", piece, **FORMAT)
            client.say("audio-stop")
            heard = await client.hear_until("transcript-stop")
            kinds = [kind for kind, _ in heard if kind != "info"]
            assert kinds[0] == "transcript-start"
            assert kinds[-2:] == ["transcript", "transcript-stop"]
            whole = "".join(data["text"] for kind, data in heard if kind == "transcript-chunk")
            transcript = next(data for kind, data in heard if kind == "transcript")
            assert (transcript["text"], transcript["language"]) == (whole, "en")
            texts.append(whole)
        assert texts[0] == texts[1]
        assert len(texts[0].split()) > 3


@pytest.mark.parametrize("begins", [True, False])
async def test_no_audio_is_an_empty_transcript(connect, begins: bool) -> None:
    async with connect() as client:
        if begins:
            client.say("audio-start", **FORMAT)
        client.say("audio-stop")
        heard = await client.hear_until("transcript-stop")
        assert dict(heard)["transcript"]["text"] == ""


async def test_chunks_alone_begin_an_utterance(connect, speech) -> None:
    async with connect() as client:
        for piece in pieces(speech(1.0)):
            client.say("audio-chunk", piece, **FORMAT, timestamp=None)
        client.say("audio-stop", timestamp=None)
        assert dict(await client.hear_until("transcript"))["transcript"]["text"]


async def test_a_client_that_says_no_more_is_still_answered(connect, speech) -> None:
    async with connect() as client:
        for piece in pieces(speech(1.0)):
            client.say("audio-chunk", piece, **FORMAT)
        client.say("audio-stop")
        client.writer.write_eof()
        assert dict(await client.hear_until("transcript"))["transcript"]["text"]


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([("audio-start", {**FORMAT, "rate": 11025})], "invalid_field"),
        ([("audio-start", {**FORMAT, "width": 4})], "invalid_field"),
        ([("audio-start", {**FORMAT, "channels": 0})], "invalid_field"),
        (
            [("audio-start", FORMAT), ("audio-chunk", {**FORMAT, "channels": 2})],
            "invalid_field",
        ),
        ([("transcribe", {"language": "de"}), ("audio-start", FORMAT)], "invalid_field"),
        ([("ping", {"text": 1})], "bad_message"),
    ],
)
async def test_what_cannot_be_is_told_and_ends_the_connection(connect, events, code) -> None:
    async with connect() as client:
        for kind, data in events:
            client.say(kind, **data)
        kind, data = await client.hear()
        assert (kind, data["code"]) == ("error", code)
        assert await client.hear() == ("", None)


async def test_a_full_server_says_so(connect) -> None:
    async with connect(places=1) as client:
        client.say("audio-start", **FORMAT)
        client.say("ping", text="in")
        assert (await client.hear())[0] == "pong"
        port = client.writer.get_extra_info("peername")[1]
        other = Client(*await asyncio.open_connection("127.0.0.1", port))
        other.say("describe")
        assert (await other.hear())[0] == "info"
        other.say("audio-start", **FORMAT)
        kind, data = await other.hear()
        assert (kind, data["code"]) == ("error", "overloaded")
        other.writer.close()


async def test_silence_between_utterances_ends_the_connection(connect) -> None:
    async with connect(LimitsConfig(idle_timeout_ms=50)) as client:
        assert await client.hear() == ("", None)

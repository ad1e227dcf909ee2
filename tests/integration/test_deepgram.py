"""Deepgram's API on a real socket: what its clients rely on and their packages do not show."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from typing import Any

import av
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stream_server.config import LimitsConfig
from tests.wav import to_wav

RAW = "encoding=linear16&sample_rate=16000"
CLOSE = '{"type":"CloseStream"}'


async def converse(server, query: str, *frames: str | bytes, **options: Any):
    """Say everything; return what was heard, the close code and reason, and the connection."""
    url = f"{server.url.replace('http', 'ws', 1)}/v1/listen?{query}"
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(10), connect(url, compression=None, **options) as socket:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await socket.send(frame)
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(json.loads(await socket.recv()))
    return heard, socket


def finals(heard: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [
        (each["channel_index"][0], each["channel"]["alternatives"][0]["transcript"])
        for each in heard
        if each["type"] == "Results" and each["is_final"]
    ]


def words(heard: list[dict[str, Any]]) -> str:
    return " ".join(text for _, text in finals(heard) if text)


def alike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Whether as many words were heard, give or take one: Opus is not exact at the edges."""
    return abs(len(words(one).split()) - len(words(other).split())) <= 1 and words(one) != ""


def pieces(data: bytes, size: int = 3200) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def opus(data: bytes, kind: str | None) -> list[bytes]:
    """Return the audio as packets, or as the pieces of a container."""
    samples = np.repeat(np.frombuffer(data, "<i2"), 3)[np.newaxis]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 48_000
    if kind is None:
        encoder = av.CodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
        return [bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return pieces(buffer.getvalue(), 500)


def wav(data: bytes) -> list[bytes]:
    return pieces(to_wav(data), 700)


async def test_every_kind_of_audio_is_heard(server, voice) -> None:
    expected, _ = await converse(server, RAW, *pieces(voice(2.4)), CLOSE)
    from_wav, _ = await converse(server, "", *wav(voice(2.4)), CLOSE)
    assert words(from_wav) == words(expected) != ""
    for query, kind in (("", "webm"), ("", "ogg"), ("encoding=ogg-opus", "ogg")):
        heard, socket = await converse(server, query, *opus(voice(2.4), kind), CLOSE)
        assert alike(heard, expected)
        assert socket.close_code == 1000
    packets = "encoding=opus&sample_rate=48000"
    heard, _ = await converse(server, packets, *opus(voice(2.4), None), CLOSE)
    assert alike(heard, expected)


async def test_each_channel_has_its_own_results(server, voice) -> None:
    one = np.frombuffer(voice(1.2), "<i2")
    both = np.stack([one, np.zeros_like(one)], axis=1).tobytes()
    query = f"{RAW}&channels=2&multichannel=true"
    heard, _ = await converse(server, query, *pieces(both), '{"type":"Finalize"}', CLOSE)
    assert {each["channel_index"][1] for each in heard if each["type"] == "Results"} == {2}
    assert [channel for channel, text in finals(heard) if text] == [0]
    marked = [each["channel_index"][0] for each in heard if each.get("from_finalize")]
    assert marked == [0, 1]
    assert heard[-1]["channels"] == 2


async def test_finalize_is_answered_at_once_and_loses_no_word(server, voice) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/listen?{RAW}"
    async with asyncio.timeout(10), connect(url, compression=None) as socket:
        await socket.send('{"type":"Finalize"}')
        empty = json.loads(await socket.recv())
        spoken = voice(1.2)[: -2 * 8000]  # up to the last sound
        for piece in pieces(spoken):
            await socket.send(piece)
        await socket.send('{"type":"Finalize"}')
        answer = json.loads(await socket.recv())
    assert (empty["from_finalize"], finals([empty])) == (True, [(0, "")])
    assert (answer["from_finalize"], answer["speech_final"]) == (True, True)
    whole, _ = await converse(server, RAW, *pieces(voice(1.2)), CLOSE)
    assert words([answer]).split()[:3] == words(whole).split()[:3]


async def test_the_end_of_a_stream_that_had_no_audio(server) -> None:
    for query in (RAW, ""):
        heard, socket = await converse(server, query, CLOSE)
        assert [each["type"] for each in heard] == ["Metadata"]
        assert (heard[0]["duration"], socket.close_code) == (0.0, 1000)


async def test_text_as_audio_is_told_from_audio(server) -> None:
    heard, socket = await converse(server, "", b"to be or not to be, that is the question")
    assert [each["type"] for each in heard] == ["Error"]
    assert socket.close_code == 1008
    assert socket.close_reason.startswith("DATA-0000")


async def test_silence_on_the_line_ends_it_and_keepalive_keeps_it(running) -> None:
    with running(LimitsConfig(idle_timeout_ms=400)) as server:
        heard, socket = await converse(server, RAW, bytes(640))
        assert [each["type"] for each in heard] == ["Error"]
        assert (socket.close_code, socket.close_reason[:8]) == (1011, "NET-0001")
        _, socket = await converse(server, "")
        assert (socket.close_code, socket.close_reason[:8]) == (1011, "NET-0001")
        url = f"{server.url.replace('http', 'ws', 1)}/v1/listen?{RAW}"
        async with asyncio.timeout(10), connect(url, compression=None) as socket:
            await socket.send(bytes(640))
            for _ in range(6):
                await asyncio.sleep(0.15)
                await socket.send('{"type":"KeepAlive"}')
            await socket.send(CLOSE)
            assert json.loads(await socket.recv())["type"] == "Metadata"


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"additional_headers": {"Authorization": "Token sesame"}}, None),
        ({"additional_headers": {"Authorization": "bearer sesame"}}, None),
        ({"subprotocols": ["token", "sesame"]}, "token"),
        ({"subprotocols": ["bearer", "sesame"]}, "bearer"),
    ],
)
async def test_keys_come_in_every_way(running, options: dict[str, Any], accepted) -> None:
    with running(keys=("sesame",)) as server:
        heard, socket = await converse(server, RAW, CLOSE, **options)
        assert socket.subprotocol == accepted
        assert socket.response.headers["dg-request-id"] == heard[-1]["request_id"]


@pytest.mark.parametrize(
    ("query", "options", "status", "code"),
    [
        (RAW, {}, 401, "INVALID_AUTH"),
        (RAW, {"subprotocols": ["token", "wrong"]}, 401, "INVALID_AUTH"),
        ("encoding=linear16", {"subprotocols": ["token", "sesame"]}, 400, "Bad Request"),
    ],
)
async def test_refusals_come_before_the_upgrade(running, query, options, status, code) -> None:
    with running(keys=("sesame",)) as server:
        with pytest.raises(InvalidStatus) as caught:
            await converse(server, query, **options)
        response = caught.value.response
        body = json.loads(response.body)
        assert (response.status_code, body["err_code"]) == (status, code)
        assert response.headers["dg-request-id"] == body["request_id"]
        assert response.headers["dg-error"] == body["err_msg"]

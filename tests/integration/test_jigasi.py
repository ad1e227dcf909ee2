"""A Jitsi meeting, replayed as Jigasi sends it: one socket, a header before each piece of audio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_at_once

from stream_server.config import LimitsConfig, SchedulerConfig

RATE = 16_000
PIECE_SECONDS = 1.5
"""``Participant.BUFFER_SIZE`` of Jigasi, 48,000 bytes."""
END = b"\0"


def address(server: Any, query: str = "") -> str:
    # Its org.jitsi.jigasi.transcription.whisper.websocket_url is all but the id, which it makes.
    url = server.url.replace("http", "ws", 1)
    return f"{url}/streaming-whisper/ws/{uuid.uuid4()}{query}"


def payload(participant: str, language: str, audio: bytes) -> bytes:
    """Do what ``WhisperWebsocket.buildPayload`` does."""
    return f"{participant}|{language}".encode().ljust(60, b"\0") + audio


def check_reply(reply: dict[str, Any], text: str) -> None:
    """Check what ``WhisperWebsocket.onMessage`` takes out of a reply, as Java would."""
    assert reply["type"] in ("interim", "final")
    uuid.UUID(reply["id"])
    assert isinstance(reply["ts"], int)
    assert '"variance":0.0' in text
    assert reply["text"]


async def hear(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return every reply up to the close."""
    replies = []
    try:
        async for text in socket:
            replies.append(json.loads(text))
            check_reply(replies[-1], str(text))
    except ConnectionClosed:
        pass
    return replies


def is_silent(piece: bytes) -> bool:
    return not np.any(np.abs(np.frombuffer(piece, "<i2").astype(np.int32)) > 50)


async def play(socket: ClientConnection, tracks: dict[str, bytes], language: str) -> None:
    """Send the tracks at the pace of speech, nothing of who is muted; then the end."""
    step = int(PIECE_SECONDS * RATE) * 2
    began = time.monotonic()
    for number, at in enumerate(range(0, len(next(iter(tracks.values()))), step), start=1):
        await asyncio.sleep(max(0.0, began + number * PIECE_SECONDS - time.monotonic()))
        for name, track in tracks.items():
            piece = track[at : at + step]
            if not is_silent(piece):
                await socket.send(payload(name, language, piece))
    await socket.send(END)


@pytest.mark.model
@pytest.mark.speech
async def test_three_people_get_their_own_captions(hearing, conversation, alone) -> None:
    async with connect(address(hearing, "?auth_token=any.signed.token")) as socket:
        began = time.time()
        hearing_all = asyncio.create_task(hear(socket))
        await play(socket, conversation.tracks, "en-US")
        async with asyncio.timeout(20):
            replies = await hearing_all
        assert socket.close_code == 1000
    assert {reply["participant_id"] for reply in replies} == {"Jack", "Grid", "Rob"}
    finals = [reply for reply in replies if reply["type"] == "final"]
    for reply in finals:
        second = reply["ts"] / 1000 - began
        conversation.check_speaker(reply["participant_id"], second, second + 1)
    for name in conversation.tracks:
        text = " ".join(reply["text"] for reply in finals if reply["participant_id"] == name)
        # Partials are asked for here, and a word that two of them agreed on stays.
        assert conversation.errors(name, text) <= conversation.errors(name, alone[name]) + 1, text
    interims = [reply for reply in replies if reply["type"] == "interim"]
    assert {reply["id"] for reply in interims} <= {reply["id"] for reply in replies}
    assert interims, "a busy machine leaves some out, but not all"
    by_utterance = {reply["id"]: set() for reply in replies}
    for reply in replies:
        by_utterance[reply["id"]].add((reply["participant_id"], reply["ts"]))
    assert {len(of_one) for of_one in by_utterance.values()} == {1}


async def test_speech_ends_where_no_more_is_sent(server, voice) -> None:
    # No silence follows the words, as where somebody mutes themselves.
    async with connect(address(server)) as socket:
        await socket.send(payload("anna", "null", voice()[:-16_000]))
        async with asyncio.timeout(10):
            while (reply := json.loads(await socket.recv()))["type"] != "final":
                assert reply["participant_id"] == "anna"
        await socket.send(payload("anna", "null", voice()))
        await socket.send(END)
        assert [each["type"] for each in await hear(socket)][-1] == "final"
        assert socket.close_code == 1000


async def test_who_finds_no_place_goes_without_captions(running, voice) -> None:
    with running(LimitsConfig(max_sessions=2)) as server:
        async with connect(address(server)) as socket:
            for name in ("anna", "ben"):
                await socket.send(payload(name, "en", voice()))
            await socket.send(END)
            async with asyncio.timeout(10):
                assert {reply["participant_id"] for reply in await hear(socket)} == {"anna"}
        assert socket.close_code == 1000


async def test_where_one_session_fits_it_is_that_of_who_speaks(running, voice) -> None:
    with running(scheduler=SchedulerConfig(busy_share=1e-9)) as server:
        async with connect(address(server)) as socket:
            for name in ("anna", "ben"):
                await socket.send(payload(name, "en", voice()))
            await socket.send(END)
            async with asyncio.timeout(10):
                assert {reply["participant_id"] for reply in await hear(socket)} == {"anna"}


@pytest.mark.parametrize(("frame", "code"), [("text", 1003), (b"\1\2", 1003), (b"\xff" * 60, 1007)])
async def test_what_is_no_piece_closes_the_socket(server, voice, frame: Any, code: int) -> None:
    async with connect(address(server)) as socket:
        await socket.send(payload("anna", "en", voice()))
        await socket.send(frame)
        async with asyncio.timeout(10):
            assert await hear(socket), "what was said before is still told"
        assert socket.close_code == code


FRAMES = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=200),
    st.builds(
        payload,
        st.sampled_from(["anna", "ben", "", "|", "\t"]) | st.text(max_size=9),
        st.sampled_from(["en-US", "null", "", "zz", "|"]) | st.text(max_size=5),
        st.integers(0, 9000).map(bytes) | st.binary(max_size=400),
    ),
)


@given(frames=st.lists(FRAMES, max_size=6))
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_anything_may_be_sent(server, frames: list[str | bytes]) -> None:
    with contextlib.suppress(ConnectionClosed), connect_at_once(address(server)) as socket:
        for frame in [*frames, END]:
            socket.send(frame)
        while True:
            check_reply(json.loads(text := socket.recv(10)), str(text))


async def test_a_client_that_vanishes_leaves_nothing_behind(server, voice, until_idle) -> None:
    async with connect(address(server)) as socket:
        for name in ("anna", "ben"):
            await socket.send(payload(name, "en", voice()[:20_000]))
        socket.transport.abort()
    await until_idle(server)


async def test_a_stopping_server_lets_speakers_finish(running, voice) -> None:
    with running() as server:
        async with connect(address(server)) as socket:
            await socket.send(payload("anna", "en", voice()))
            replies = [json.loads(await socket.recv())]
            server.stop()
            async with asyncio.timeout(15):
                replies += await hear(socket)
            assert [reply["type"] for reply in replies][-1] == "final"
            assert socket.close_code == 1012


async def test_a_key_may_be_the_token(running) -> None:
    with running(keys=("sesame",)) as server:
        with pytest.raises(InvalidStatus, match="401"):
            await connect(address(server, "?auth_token=wrong"))
        async with connect(address(server, "?auth_token=sesame")) as socket:
            await socket.send(END)
            assert await hear(socket) == []

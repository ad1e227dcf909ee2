"""Keys, refusals and ends of the APIs of others; their real clients are in `clients`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stream_server.config import LimitsConfig
from stream_server.recogniser.fake import FakeRecogniser


def realtime(server, query: str = "?intent=transcription", **options: Any) -> connect:
    url = server.url.replace("http", "ws", 1) + "/v1/realtime" + query
    return connect(url, max_size=None, compression=None, **options)


def vosk(server, path: str = "/vosk", **options: Any) -> connect:
    return connect(server.url.replace("http", "ws", 1) + path, compression=None, **options)


async def hear(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            event = json.loads(await socket.recv())
            if event["type"] == kind:
                return event


async def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": kind, **fields}))


async def append(socket: ClientConnection, audio: bytes) -> None:
    await say(socket, "input_audio_buffer.append", audio=base64.b64encode(audio).decode())


COMPLETED = "conversation.item.input_audio_transcription.completed"


def at_24k(voice: bytes) -> bytes:
    samples = np.frombuffer(voice, "<i2").astype(np.float32)
    t = np.arange(len(samples) * 3 // 2) / 1.5
    return np.interp(t, np.arange(len(samples)), samples).astype("<i2").tobytes()


# --- keys -----------------------------------------------------------------------------------------


async def test_keys_of_browsers_come_as_subprotocols(running) -> None:
    with running(keys=("sesame",)) as server:
        offered = ["realtime", "openai-insecure-api-key.sesame", "openai-beta.realtime-v1"]
        async with realtime(server, subprotocols=offered) as socket:
            assert socket.subprotocol == "realtime"
            await hear(socket, "transcription_session.created")
        offered[1] = "openai-insecure-api-key.wrong"
        for options in ({"subprotocols": offered}, {}):
            with pytest.raises(InvalidStatus) as caught:
                async with realtime(server, **options):
                    pass
            assert caught.value.response.status_code == 401
            error = json.loads(caught.value.response.body)["error"]
            assert (error["code"], error["type"]) == ("unauthorized", "invalid_request_error")


async def test_a_client_secret_opens_a_session_with_its_settings(running) -> None:
    with running(keys=("sesame",)) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            inner = {"turn_detection": None, "format": {"type": "audio/pcmu"}}
            body = {"session": {"type": "transcription", "audio": {"input": inner}}}
            headers = {"Authorization": "Bearer sesame"}
            path = "/v1/realtime/client_secrets"
            made = (await http.post(path, json=body, headers=headers)).json()
        secret = made["value"]
        for options in (
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{secret}"]},
            {"additional_headers": {"Authorization": f"Bearer {secret}"}},
        ):
            async with realtime(server, **options) as socket:
                session = (await hear(socket, "session.created"))["session"]
            assert session["audio"]["input"]["turn_detection"] is None
            assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        with pytest.raises(InvalidStatus):
            async with realtime(server, additional_headers={"Authorization": f"Bearer {secret}x"}):
                pass
        # It opens realtime sessions only.
        async with httpx.AsyncClient(base_url=server.url) as http:
            answer = await http.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
            assert answer.status_code == 401


async def test_vosk_takes_the_servers_keys(running) -> None:
    with running(keys=("sesame",)) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with vosk(server):
                pass
        assert caught.value.response.status_code == 401
        async with vosk(server, "/vosk?api_key=sesame") as socket:
            await socket.send('{"eof":1}')
            assert json.loads(await socket.recv()) == {"text": ""}


# --- realtime -------------------------------------------------------------------------------------


async def test_audio_may_come_before_the_settings(server, voice) -> None:
    async with realtime(server, "?model=anything&language=en-US") as socket:
        created = await hear(socket, "session.created")
        assert created["session"]["audio"]["input"]["transcription"] == {
            "model": "anything",
            "language": "en",
            "prompt": "",
        }
        await append(socket, at_24k(voice())[:20_000])
        session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        await say(socket, "session.update", session=session)
        await append(socket, at_24k(voice())[20_000:])
        await say(socket, "input_audio_buffer.commit")
        assert (await hear(socket, COMPLETED))["transcript"]


async def test_turns_that_follow_at_once_keep_their_words(server, voice) -> None:
    """Audio of the next turn is sent before the text of the last is there."""
    async with realtime(server) as socket:
        session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        await say(socket, "session.update", session=session)
        for _ in range(4):
            await append(socket, at_24k(voice()))
            await say(socket, "input_audio_buffer.commit")
        heard = [await hear(socket, COMPLETED) for _ in range(4)]
    assert len({each["item_id"] for each in heard}) == 4
    assert len({each["transcript"] for each in heard}) == 1
    assert heard[0]["transcript"]


async def test_g711_and_pcm_say_as_much(server, voice) -> None:
    samples = np.frombuffer(voice(), "<i2")[::2]
    counts = []
    for name, audio in (("audio/pcmu", to_mulaw(samples)), ("audio/pcm", at_24k(voice()))):
        async with realtime(server) as socket:
            session = {"type": "transcription", "audio": {"input": {"format": {"type": name}}}}
            await say(socket, "session.update", session=session)
            await append(socket, audio)
            await say(socket, "input_audio_buffer.commit")
            counts.append(len((await hear(socket, COMPLETED))["transcript"].split()))
    assert counts[0] == pytest.approx(counts[1], abs=1)
    assert counts[0] > 2


def to_mulaw(samples: np.ndarray) -> bytes:
    """Encode as G.711 says (16-bit samples to 8-bit mu-law)."""
    sign = np.where(samples < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(samples.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


class Breaking(FakeRecogniser):
    is_broken = False

    def start(self, utterances):
        if self.is_broken:
            raise RuntimeError("secret")
        return FakeRecogniser.start(self, utterances)


async def test_a_broken_model_fails_the_item_and_not_the_session(running, voice) -> None:
    model = Breaking()
    with running(load=lambda _: model) as server:
        model.is_broken = True  # once it has been measured
        async with realtime(server) as socket:
            for _ in range(2):
                await append(socket, at_24k(voice()))
                await say(socket, "input_audio_buffer.commit")
                failed = await hear(socket, "conversation.item.input_audio_transcription.failed")
                assert failed["error"]["code"] == "recognition_failed"
                assert "secret" not in str(failed)


async def test_the_end_of_a_session_is_told_by_the_close_code(running) -> None:
    limits = LimitsConfig(max_session_ms=1000)
    with running(limits) as server:
        async with realtime(server) as socket:
            await append(socket, bytes(48_000 * 2))
            with pytest.raises(ConnectionClosed):
                await hear(socket, "error")
            assert (socket.close_code, socket.close_reason) == (1008, "limit")
        async with vosk(server) as socket:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(400):
                    await socket.send(bytes(1600))
                    await socket.recv()
        assert socket.close_code == 1008


async def test_a_full_or_draining_server_refuses_in_each_api(running, talk) -> None:
    with running(LimitsConfig(max_sessions=1)) as server:
        async with talk(server, {}) as conversation:
            for connection in (realtime(server), vosk(server)):
                with pytest.raises(InvalidStatus) as caught:
                    async with connection:
                        pass
                assert caught.value.response.status_code == 503
            await conversation.say({"type": "stop"})
            await conversation.hear_all()
        async with realtime(server) as socket:
            await hear(socket, "session.created")
            server.stop()
            server.stop()
            with pytest.raises(ConnectionClosed):
                await hear(socket, "error")
            assert socket.close_code == 1012


async def test_bytes_that_are_no_audio_are_an_error(server) -> None:
    async with realtime(server) as socket:
        await append(socket, b"fLaC" + bytes(4000))
        error = (await hear(socket, "error"))["error"]
        assert (error["code"], error["type"]) == ("bad_audio", "invalid_request_error")
        with pytest.raises(ConnectionClosed):
            await hear(socket, "never")
        assert socket.close_code == 1007


# --- where nothing is -----------------------------------------------------------------------------


async def test_our_own_subprotocol_is_not_taken_for_vosk(server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with vosk(server, "/", subprotocols=["diffscribe.v1"]):
            pass
    assert caught.value.response.status_code == 400
    assert b"/v1/stream" in caught.value.response.body


async def test_a_plain_get_of_a_websocket_says_so(server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        answer = await http.get("/v1/realtime")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_the_root_is_a_page_an_index_and_vosk(server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        page = await http.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        index = await http.get("/", headers={"Accept": "application/json"})
        plain = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert index.json()["name"] == "diffscribe"
    assert plain.json() == index.json(), "curl, too, is told in JSON"
    async with vosk(server, "/") as socket:
        await socket.send('{"eof" : 1}')
        assert json.loads(await socket.recv()) == {"text": ""}


@pytest.mark.parametrize("path", ["/web/", "/web/client.js", "/overlay", "/whip", "/healthz"])
async def test_what_is_no_websocket_says_so_before_the_upgrade(server, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with vosk(server, path):
            pass
    assert caught.value.response.status_code == 404

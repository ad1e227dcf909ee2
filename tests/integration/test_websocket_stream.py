"""Live audio over a real WebSocket: partials and finals, limits, keys, drain."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from typing import Any

import av
import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from stream_server.config import LimitsConfig
from stream_server.recogniser.fake import FakeRecogniser


def texts(heard: list[dict[str, Any]], kind: str = "final") -> list[str]:
    return [message["text"] for message in heard if message["type"] == kind]


async def transcribe(talk, server, audio: bytes, step: int = 3200, **start: Any):
    async with talk(server, start) as conversation:
        for at in range(0, len(audio), step):
            await conversation.say(audio[at : at + step])
        await conversation.say({"type": "stop"})
        return await conversation.hear_all()


async def test_speech_becomes_partials_and_a_final(server, talk, voice) -> None:
    heard, code = await transcribe(talk, server, voice(2.4), words=True, partial_interval_ms=300)
    kinds = [message["type"] for message in heard]
    assert code == 1000
    assert kinds[0] == "ready"
    assert kinds[-1] == "done"
    assert kinds.index("speech_started") < kinds.index("speech_ended") <= kinds.index("final")
    (final,) = [message for message in heard if message["type"] == "final"]
    assert final["text"]
    assert " ".join(word["text"].strip() for word in final["words"]) == final["text"]
    stable = ""
    for partial in (message for message in heard if message["type"] == "partial"):
        assert partial["stable"].startswith(stable)
        stable = partial["stable"]
    assert final["text"].startswith(stable)
    assert heard[-1]["samples"] == len(voice(2.4)) // 2


async def test_the_subprotocol_is_echoed_and_may_be_left_out(server, talk) -> None:
    async with talk(server) as conversation:
        assert conversation.socket.subprotocol == "diffscribe.v1"
    async with talk(server, subprotocols=["other", "diffscribe.v1"]) as conversation:
        assert conversation.socket.subprotocol == "diffscribe.v1"
    async with talk(server, {}, subprotocols=None) as conversation:
        assert conversation.socket.subprotocol is None


@pytest.mark.parametrize(
    ("encoding", "rate"), [("pcm_f32le", 48000), ("pcm_s16le", 8000), ("pcm_f32le", 44100)]
)
async def test_other_encodings_and_rates_say_the_same(server, talk, voice, encoding, rate) -> None:
    samples = np.frombuffer(voice(), "<i2").astype(np.float32) / 32768
    t = np.arange(int(len(samples) / 16000 * rate)) * 16000 / rate
    resampled = np.interp(t, np.arange(len(samples)), samples).astype(np.float32)
    data = resampled.tobytes()
    if encoding == "pcm_s16le":
        data = (resampled * 32767).astype("<i2").tobytes()
    heard, _ = await transcribe(talk, server, data, step=997, encoding=encoding, sample_rate=rate)
    expected, _ = await transcribe(talk, server, voice())
    assert len(texts(heard)) == len(texts(expected)) == 1
    assert len(texts(heard)[0].split()) == pytest.approx(len(texts(expected)[0].split()), abs=1)


@pytest.mark.parametrize("kind", ["webm", "ogg"])
async def test_recorders_output_is_transcribed(server, talk, voice, kind) -> None:
    samples = np.frombuffer(voice(), "<i2")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, 3)[None], format="s16", layout="mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    heard, code = await transcribe(talk, server, buffer.getvalue(), step=500, encoding=kind)
    assert (code, len(texts(heard))) == (1000, 1)


async def test_channels_are_transcribed_apart(server, talk, voice) -> None:
    left, right = np.frombuffer(voice(), "<i2"), np.frombuffer(voice(1.2, 190, 1), "<i2")
    both = np.stack([left, right], axis=1).tobytes()
    heard, _ = await transcribe(talk, server, both, channels=2, channel_mode="split")
    finals = [message for message in heard if message["type"] == "final"]
    assert {final["channel"] for final in finals} == {0, 1}
    assert len({final["segment"] for final in finals}) == len(finals)


async def test_flush_is_always_answered(server, talk, voice) -> None:
    async with talk(server, {}) as conversation:
        await conversation.say({"type": "flush", "id": "nothing"})
        assert (await conversation.hear("flushed"))["id"] == "nothing"
        await conversation.say(voice()[:-16000], {"type": "flush", "id": "speech"})
        flushed = await conversation.hear("flushed")
        assert flushed["id"] == "speech"
        assert len(texts(conversation.heard)) == 1


async def test_a_wav_header_is_skipped_with_a_notice(server, talk, voice) -> None:
    audio = voice()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(audio, "<i2")[None], format="s16", layout="mono"
        )
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    heard, code = await transcribe(talk, server, buffer.getvalue())
    assert code == 1000
    assert [m["code"] for m in heard if m["type"] == "notice"] == ["audio_adjusted"]
    assert texts(heard) == texts((await transcribe(talk, server, audio))[0])


# --- who is let in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Basic b3Blbg=="}]
)
async def test_without_a_key_the_upgrade_is_denied(running, talk, headers) -> None:
    with running(keys=("open", "sesame")) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with talk(server, additional_headers=headers):
                pass
        assert caught.value.response.status_code == 401
        assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
        assert b'"code":"unauthorized"' in caught.value.response.body


async def test_a_key_opens_in_three_ways(running, talk) -> None:
    with running(keys=("open", "sesame")) as server:
        for options in (
            {"additional_headers": {"Authorization": "Bearer open"}},
            {"additional_headers": {"X-API-Key": "sesame"}},
            {"query": "?api_key=open"},
        ):
            async with talk(server, {}, **options):
                pass
        async with httpx.AsyncClient(verify=False, base_url=server.url) as client:
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/metrics?api_key=open")).status_code == 200
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200


async def test_over_the_limit_the_upgrade_is_refused(running, talk) -> None:
    with running(LimitsConfig(max_sessions=1)) as server:
        async with talk(server, {}):
            with pytest.raises(InvalidStatus) as caught:
                async with talk(server):
                    pass
            assert caught.value.response.status_code == 503
            assert int(caught.value.response.headers["Retry-After"]) >= 1
            assert b'"code":"overloaded"' in caught.value.response.body
        async with (
            asyncio.timeout(5),
            httpx.AsyncClient(verify=False, base_url=server.url) as client,
        ):
            while (await client.get("/readyz")).json()["sessions"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with talk(server, {}):
            pass


# --- beginning and end --------------------------------------------------------------------------


async def test_while_the_model_loads_probes_are_answered(running, talk) -> None:
    loaded = threading.Event()

    def load(_: object) -> FakeRecogniser:
        loaded.wait(10)
        return FakeRecogniser()

    with running(load=load, wait=False) as server:
        try:
            async with httpx.AsyncClient(verify=False, base_url=server.url) as client:
                assert (await client.get("/healthz")).status_code == 200
                answer = await client.get("/readyz")
                assert (answer.status_code, answer.json()["status"]) == (503, "loading")
                with pytest.raises(InvalidStatus) as caught:
                    async with talk(server):
                        pass
                assert caught.value.response.status_code == 503
                loaded.set()
                async with asyncio.timeout(10):
                    while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            async with talk(server, {}):
                pass
        finally:
            loaded.set()


async def test_a_drain_lets_sessions_finish_and_refuses_new_ones(running, talk, voice) -> None:
    with running() as server:
        async with talk(server, {}) as conversation:
            server.stop()
            assert (await conversation.hear("notice"))["code"] == "draining"
            async with httpx.AsyncClient(verify=False, base_url=server.url) as client:
                assert (await client.get("/healthz")).status_code == 200
                answer = await client.get("/readyz")
                assert (answer.status_code, answer.json()["status"]) == (503, "draining")
            with pytest.raises(InvalidStatus) as caught:
                async with talk(server):
                    pass
            assert caught.value.response.status_code == 503
            await conversation.say(voice(), {"type": "stop"})
            heard, code = await conversation.hear_all()
        assert code == 1000
        assert len(texts(heard)) == 1
        await until_refused(server)


@pytest.mark.parametrize("is_impatient", [False, True])
async def test_a_drain_ends_by_its_limit_or_a_second_signal(running, talk, is_impatient) -> None:
    with running(LimitsConfig(drain_seconds=60.0 if is_impatient else 0.1)) as server:
        async with talk(server, {}) as conversation:
            server.stop()
            await conversation.hear("notice")
            if is_impatient:
                server.stop()
            heard, code = await conversation.hear_all()
        assert code == 1012
        assert (heard[-1]["type"], heard[-1]["code"]) == ("error", "draining")


async def until_refused(server) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.02)
    raise AssertionError("the port is still open")

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import textwrap
import wave
from pathlib import Path

import pytest
from websockets.asyncio.server import serve

from stream_client.client import RECONNECTED, Reconnect, connect
from stream_client.errors import (
    ConnectionFailed,
    ServerMisbehaved,
    ServerRefused,
    StreamBroken,
)
from stream_protocol import codec
from stream_protocol.errors import LocalProtocolError
from stream_protocol.messages import (
    SUBPROTOCOL,
    Ack,
    Configure,
    Done,
    Endpointing,
    Error,
    Final,
    Flushed,
    Notice,
    Partial,
    Start,
    Stop,
)

README = Path(__file__).parents[2] / "client/README.md"
README_URL = "ws://127.0.0.1:8000/v1/stream"
QUICK = Reconnect(first_delay=0.001, max_delay=0.002)


def noise(count, seed=0):
    return random.Random(seed).randbytes(count)


async def run_through(url, audio, start=None, sizes=None, flush_at=(), **options):
    """Send audio, stop, and return every message."""
    rng = random.Random(1)
    async with connect(url, start, reconnect=QUICK, **options) as stream:

        async def pump():
            sent = 0
            while sent < len(audio):
                size = sizes or rng.randrange(1, 4000)
                await stream.send(audio[sent : sent + size])
                sent += size
                await asyncio.sleep(0)
                if sent in flush_at:
                    await stream.flush(str(sent))
            await stream.stop()

        task = asyncio.create_task(pump())
        try:
            messages = [message async for message in stream]
            await task
        finally:
            task.cancel()
        assert stream.ready.resume_token.startswith("token")
    return messages


def joined(server, width, rate=16000):
    """What the server heard over all connections, joined by where each said that it began."""
    whole = bytearray()
    for heard in server.heard:
        position = heard.start.resume.position if heard.start.resume else 0
        offset = position * rate // 16000 * width
        assert offset <= len(whole), "a hole"
        overlap = min(len(whole) - offset, len(heard.audio))
        assert whole[offset : offset + overlap] == heard.audio[:overlap]
        whole[offset + overlap :] = whole[offset + overlap :] or heard.audio[overlap:]
    return bytes(whole)


def covered(messages):
    """Check that finals follow each other without hole, and return where they end."""
    finals = [message for message in messages if isinstance(message, Final)]
    assert [final.segment for final in finals] == list(range(len(finals)))
    end = 0
    for final in finals:
        assert final.start == end
        end = final.end
    return end


async def test_streams_and_ends_with_done(serving, speaking_server):
    async with serving(speaking_server()) as server:
        audio = noise(40_000)
        messages = await run_through(server.url, audio)
    assert joined(server, 2) == audio
    assert covered(messages) == 20_000
    assert isinstance(messages[-1], Done)
    assert any(isinstance(message, Partial) for message in messages)


@pytest.mark.parametrize("seed", range(25))
async def test_loses_nothing_when_cut_anywhere(serving, speaking_server, seed):
    rng = random.Random(seed)
    cuts = [rng.randrange(0, 24) for _ in range(rng.randrange(1, 5))]
    cuts[0] += 2  # the first connection must get its ready
    async with serving(speaking_server(cut_after=cuts)) as server:
        audio = noise(2 * rng.randrange(30_000, 60_000), seed)
        messages = await run_through(server.url, audio)
    assert server.dropped >= 1
    assert joined(server, 2) == audio
    assert covered(messages) == len(audio) // 2
    assert isinstance(messages[-1], Done)
    assert messages[-1].samples == len(audio) // 2


@pytest.mark.parametrize(
    ("encoding", "rate", "width"), [("mulaw", 8000, 1), ("pcm_f32le", 48000, 4)]
)
async def test_resumes_other_formats_on_exact_positions(
    serving, speaking_server, encoding, rate, width
):
    start = Start(encoding=encoding, sample_rate=rate)
    async with serving(speaking_server(cut_after=[30, 17], segment_samples=1601)) as server:
        audio = noise(width * rate)
        messages = await run_through(server.url, audio, start, sizes=1000)
    assert server.dropped == 2
    assert joined(server, width, rate) == audio
    assert isinstance(messages[-1], Done)
    assert messages[-1].samples == 16000


async def test_a_resumed_connection_says_so(serving, speaking_server):
    async with serving(speaking_server(cut_after=[12])) as server:
        messages = await run_through(server.url, noise(30_000), sizes=2000)
    first, second = (heard.start.resume for heard in server.heard)
    assert first is None
    assert second.token == "token 1"
    assert [message.code for message in messages if isinstance(message, Notice)] == [RECONNECTED]


async def test_flush_is_answered_over_a_break(serving, speaking_server):
    async with serving(speaking_server(cut_after=[11])) as server:
        messages = await run_through(server.url, noise(30_000), sizes=2000, flush_at=(6000, 20_000))
    answers = [message for message in messages if isinstance(message, Flushed)]
    assert [answer.id for answer in answers] == ["6000", "20000"]
    assert answers[1].position == 10_000


async def test_configure_survives_a_break(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[16])) as server,
        connect(server.url, reconnect=QUICK) as stream,
    ):
        await stream.configure(endpointing=Endpointing(silence_ms=300), language="de")
        await stream.send(noise(60_000))
        await stream.stop()
        async for _ in stream:
            await asyncio.sleep(0)
        assert stream.reconnects == 1
        assert stream.acked == 30_000
    again = server.heard[1]
    assert again.start.language == "de"
    assert again.start.endpointing.silence_ms == 300
    assert [message for _, message in again.controls] == [Stop()]
    assert isinstance(server.heard[0].controls[0][1], Configure)


async def test_without_reconnect_a_break_is_an_error(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[5])) as server,
        connect(server.url, reconnect=None) as stream,
    ):
        await stream.send(noise(20_000))
        with pytest.raises(StreamBroken, match="broke"):
            async for _ in stream:
                pass
        with pytest.raises(StreamBroken):
            await stream.send(b"xx")


async def test_a_container_cannot_be_resumed(serving, speaking_server):
    async with (
        serving(speaking_server(cut_after=[5])) as server,
        connect(server.url, Start(encoding="webm"), reconnect=QUICK) as stream,
    ):
        await stream.send(noise(100))
        await asyncio.sleep(0.02)
        await stream.send(noise(100))
        with pytest.raises(StreamBroken, match="send PCM"):
            async for _ in stream:
                pass
    assert len(server.heard) == 1


async def test_gives_up_after_the_last_try(serving, speaking_server):
    # Every connection but the first is cut before its ready.
    async with (
        serving(speaking_server(cut_after=[4] + [1] * 20)) as server,
        connect(server.url, reconnect=Reconnect(3, 0.001, 0.001)) as stream,
    ):
        await stream.send(noise(20_000))
        with pytest.raises(StreamBroken, match="gave up after 3 tries"):
            async for _ in stream:
                pass
    assert server.dropped == 4


async def test_a_retryable_refusal_is_tried_again_after_a_break(serving, speaking_server):
    async with serving(speaking_server(cut_after=[20])) as server:
        audio = noise(60_000)
        async with connect(server.url, reconnect=QUICK) as stream:
            server.refuse = [Error("overloaded", "full", None, True, True)]
            await stream.send(audio)
            await stream.stop()
            messages = [message async for message in stream]
    assert server.refuse == []
    assert covered(messages) == 30_000


@pytest.mark.parametrize("retryable", [True, False])
async def test_refused_at_first(serving, speaking_server, retryable):
    refusal = Error("invalid_field", "7 is not allowed", "$.steps", retryable, True)
    async with serving(speaking_server(refuse=[refusal])) as server:
        with pytest.raises(ServerRefused, match=r"7 is not allowed") as caught:
            async with connect(server.url):
                pass
    assert (caught.value.code, caught.value.field) == ("invalid_field", "$.steps")
    assert caught.value.retryable is retryable


async def test_refused_by_http_status():
    async def reject(connection, request):
        return connection.respond(401, "no key")

    async with serve(lambda _: None, "127.0.0.1", 0, process_request=reject) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(ServerRefused) as caught:
            async with connect(url, api_key="wrong"):
                pass
    assert caught.value.code == "unauthorized"
    assert not caught.value.retryable


async def test_refused_by_http_with_a_reason():
    detail = {"message": "going away", "type": "x", "code": "draining", "param": None}

    async def reject(connection, request):
        return connection.respond(503, json.dumps({"error": detail}))

    async with serve(lambda _: None, "127.0.0.1", 0, process_request=reject) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(ServerRefused, match="going away") as caught:
            async with connect(url):
                pass
    assert caught.value.code == "draining"
    assert caught.value.retryable


async def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f":{port}"):
            async with connect(f"ws://127.0.0.1:{port}/"):
                pass


async def test_not_a_url():
    with pytest.raises(ConnectionFailed, match="nowhere"):
        async with connect("nowhere"):
            pass


async def test_a_server_of_another_protocol():
    async def handle(websocket):
        await websocket.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(ConnectionFailed, match=SUBPROTOCOL):
            async with connect(url):
                pass


async def test_a_server_that_says_nothing():
    async def handle(websocket):
        await websocket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(ConnectionFailed, match="no answer"):
            async with connect(url, open_timeout=0.05):
                pass


@pytest.mark.parametrize("answer", ["nonsense", codec.encode(Ack(1)), '{"type":"ready"}'])
async def test_a_server_that_breaks_the_protocol(answer):
    async def handle(websocket):
        await websocket.recv()
        await websocket.send(answer)
        await websocket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(ServerMisbehaved):
            async with connect(url):
                pass


async def test_nothing_can_be_sent_after_stop(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url) as stream:
        await stream.stop()
        with pytest.raises(LocalProtocolError):
            await stream.send(b"xx")
        with pytest.raises(LocalProtocolError):
            await stream.stop()


async def test_the_key_goes_into_the_header(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url, api_key="s3cret"):
        pass
    assert server.heard[0].authorization == "Bearer s3cret"


async def test_send_waits_for_a_server_that_does_not_read():
    reading = asyncio.Event()

    async def handle(websocket):
        from stream_protocol.messages import Limits, Ready

        await websocket.recv()
        await websocket.send(codec.encode(Ready("s", "t", "m", [], Limits(1, 1, 1, 1))))
        await reading.wait()
        async for _ in websocket:
            pass

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], max_queue=1) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        async with connect(url, reconnect=None) as stream:

            async def send_much():
                for _ in range(400):
                    await stream.send(bytes(65_536))

            task = asyncio.create_task(send_much())
            done, _ = await asyncio.wait([task], timeout=0.2)
            assert not done
            reading.set()
            await asyncio.wait_for(task, 20)


async def test_a_slow_reader_gets_every_final_but_not_every_ack(serving, speaking_server):
    async with serving(speaking_server()) as server, connect(server.url) as stream:
        for _ in range(100):
            await stream.send(noise(960))
            await asyncio.sleep(0.001)
        await stream.stop()
        for _ in range(5000):
            if stream.acked == 48_000:
                break
            await asyncio.sleep(0.001)
        messages = [message async for message in stream]
    assert covered(messages) == 48_000
    assert sum(isinstance(message, Ack) for message in messages) < 10


async def test_the_examples_of_the_readme_run(serving, speaking_server, tmp_path):
    quick, whole, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(noise(9600))
    async with serving(speaking_server()) as server:
        names = {"pcm": noise(200)}
        body = textwrap.indent(quick, "    ")
        exec(f"async def run():\n{body}".replace(README_URL, server.url), names)
        await names["run"]()
        exec(whole.replace(README_URL, server.url), names)
        assert await names["transcribe"](path) == "0-4800 "
    assert len(server.heard) == 2


def test_delays_grow_and_are_spread():
    policy = Reconnect(first_delay=1.0, max_delay=8.0)
    for attempt, full in [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (50, 8.0)]:
        delays = {policy.delay(attempt) for _ in range(50)}
        assert all(full / 2 <= delay <= full for delay in delays)
        assert len(delays) > 1

"""A server that is about to stop: told to whom, refused how, and gone when."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from stream_client.client import RECONNECTED, Reconnect
from stream_client.client import connect as open_stream
from stream_protocol.messages import Done, Final, Notice
from tests.integration.webrtc import make_offer
from tests.wav import to_wav

SOCKETS = (
    "/v1/stream", "/v1/realtime?intent=transcription",
    "/v1/listen?encoding=linear16&sample_rate=16000",
    "/v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000",
    "/v3/ws?sample_rate=16000", "/v2", "/vosk", "/",
)  # fmt: skip
QUICK = Reconnect(attempts=600, first_delay=0.05, max_delay=0.1)


async def test_every_api_says_that_another_try_may_be_let_in(
    running, talk, voice, free_port
) -> None:
    port = free_port()
    with running(wyoming_port=port) as server:
        async with talk(server, {}) as conversation:
            server.stop()
            await conversation.hear("notice")
            for path in SOCKETS:
                with pytest.raises(InvalidStatus) as caught:
                    async with connect(server.url.replace("http", "ws", 1) + path):
                        pass
                answer = caught.value.response
                assert answer.status_code == 503, path
                assert answer.headers["Retry-After"], path
            sdp, file = await make_offer(), to_wav(voice())
            of_sdp = {"Content-Type": "application/sdp"}
            async with httpx.AsyncClient(base_url=server.url) as http:
                answers = [
                    await http.post("/v1/audio/transcriptions", files={"file": file}),
                    await http.post("/v1/listen", content=file),
                    await http.post("/whip", content=sdp, headers=of_sdp),
                    await http.post("/v1/webrtc/offer", json={"type": "offer", "sdp": sdp}),
                ]  # fmt: skip
                for each in answers:
                    assert each.status_code == 503, each.url
                    assert each.headers["Retry-After"], each.url
                count = (await http.get("/drain")).json()
                assert count == {"status": "draining", "sessions": 1, "uploads": 0}
            assert await utterance(port) == "draining"
            await conversation.say({"type": "stop"})
            await conversation.hear_all()


async def utterance(port: int) -> str:
    """Return the code of the error that a new utterance gets over Wyoming."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    audio = b'"data":{"rate":16000,"width":2,"channels":1}'
    writer.write(b'{"type":"audio-start",' + audio + b"}\n")
    line = json.loads(await asyncio.wait_for(reader.readline(), 5))
    data = await asyncio.wait_for(reader.readexactly(line.get("data_length", 0)), 5)
    writer.close()
    assert line["type"] == "error"
    return str((json.loads(data) if data else line["data"])["code"])


async def test_a_client_that_goes_on_moves_and_one_that_has_stopped_does_not(
    running, voice, free_port
) -> None:
    """Two servers after each other on one port, as a restart is."""
    url, audio, settings = "", voice(), {"reconnect": QUICK}
    with running() as server:
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        port = server.port
        async with open_stream(url, **settings) as going_on, open_stream(url) as stopped:
            await going_on.send(audio)
            await stopped.send(audio)
            await stopped.stop()
            server.stop()
            heard = [message async for message in stopped]
            assert isinstance(heard[-1], Done)
            assert stopped.reconnects == 0
            restarted = asyncio.create_task(asyncio.to_thread(another, port))
            await going_on.send(audio)
            await going_on.stop()
            messages = [message async for message in going_on]
            with await restarted as process:
                process.terminate()
                assert await asyncio.to_thread(process.wait, 20) == 0
    codes = [message.code for message in messages if isinstance(message, Notice)]
    assert codes == ["draining", RECONNECTED]
    finals = [message for message in messages if isinstance(message, Final)]
    assert len([final for final in finals if final.text]) == 2
    assert isinstance(messages[-1], Done)
    assert messages[-1].samples == len(audio)


def another(port: int) -> subprocess.Popen[str]:
    """Start a server of its own process, once the port is free."""
    for _ in range(100):
        process = start_server("--port", str(port))
        if process.stdout is not None and "ready" in process.stdout.readline():
            return process
        with process:
            process.wait(5)
        time.sleep(0.1)
    raise AssertionError("the port does not get free")


MAIN = "from stream_server.cli import main; main()"


def start_server(*options: str, main: str = MAIN) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", main, "serve"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSCRIBE_")}
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [*command, "--model", "fake", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip


@contextmanager
def process(*options: str, main: str = MAIN) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server for the length of a block; gives it and its address."""
    with start_server("--port", "0", *options, main=main) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"ready on http://(\S+)", server.stdout.readline())
            assert found is not None
            yield server, found[1]
        finally:
            server.kill()


@pytest.mark.parametrize("seconds", [0.5, 60.0])
async def test_sigterm_ends_a_server_with_live_sessions_in_a_set_time(seconds: float) -> None:
    """By the limit, or as soon as the last session is over; never by closing it at once."""
    with process("--drain-seconds", str(seconds)) as (server, address):
        async with connect(f"ws://{address}/v1/stream", subprotocols=["diffscribe.v1"]) as socket:  # type: ignore[list-item]
            await socket.send('{"type":"start"}')
            assert await heard(socket, "ready")
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert (await heard(socket, "notice"))["code"] == "draining"
            if seconds > 10:
                await socket.send('{"type":"stop"}')
                assert await heard(socket, "done")
            else:
                assert (await heard(socket, "error"))["code"] == "draining"
                assert time.monotonic() - began >= seconds
        status = await asyncio.to_thread(server.wait, 20)
        assert time.monotonic() - began < 15
        assert status == 0


BUSY = """
import atexit, time
from stream_server import server
from stream_server.recogniser.fake import FakeRecogniser

class Busy(FakeRecogniser):
    def step(self, rows):
        if any(row.utterance.language for row in rows):  # a client's, none of the warm-up
            time.sleep(120)
        return super().step(rows)

server.load_recogniser = lambda config, report: Busy()
atexit.register(time.sleep, 120)  # in the place of what it takes to free a large model
"""


async def test_neither_a_long_step_nor_the_interpreter_holds_up_the_end(voice) -> None:
    """The engine is inside a step when the time is over, and the interpreter has much to free."""
    with process("--drain-seconds", "0.5", main=BUSY + MAIN) as (server, address):
        async with connect(f"ws://{address}/v1/stream", subprotocols=["diffscribe.v1"]) as socket:  # type: ignore[list-item]
            await socket.send('{"type":"start","language":"en","partial_interval_ms":0}')
            await socket.send(voice() * 2)
            await heard(socket, "speech_ended")
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert (await heard(socket, "error"))["code"] == "draining"
        status = await asyncio.to_thread(server.wait, 20)
        assert time.monotonic() - began < 15
        assert status == 0


async def heard(socket: Any, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] == kind:
                return message

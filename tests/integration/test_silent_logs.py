"""Nothing that was said, no audio and no key gets into the log of a real server at any level.

A process of its own with the embedded model and the loudest log, used by every API, in right and
wrong ways. Whatever text a client was given must not be in what the process wrote.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stream_server.keyring import make_key
from tests.wav import to_wav

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
CANARY = "canary-of-a-wrong-key"
SOCKETS: list[tuple[str, list[Any], Any]] = [
    ("/v1/stream", [{"type": "start", "partial_interval_ms": 300}], {"type": "stop"}),
    ("/v1/realtime", [], {"type": "input_audio_buffer.commit"}),
    (
        "/v1/listen?encoding=linear16&sample_rate=16000&interim_results=true",
        [],
        {"type": "CloseStream"},
    ),
    ("/v2/listen?encoding=linear16&sample_rate=16000", [], {"type": "CloseStream"}),
    ("/v3/ws?sample_rate=16000", [], {"type": "Terminate"}),
    (
        "/v2",
        [
            {
                "message": "StartRecognition",
                "audio_format": {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000},
            }
        ],
        {"message": "EndOfStream", "last_seq_no": 0},
    ),
    ("/vosk", [{"config": {"sample_rate": 16000}}], {"eof": 1}),
]


class Process:
    """A running server, and everything that it wrote."""

    def __init__(self, keys_file: Path, log: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSCRIBE_")}
        path = os.pathsep.join(each for each in sys.path if each)
        command = [sys.executable, "-c", "from stream_server.cli import main; main()", "serve"]
        command += ["--port", "0", "--log-level", "debug", "--keys-file", str(keys_file)]
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=kept | {"PYTHONPATH": path}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert " ready on " in line, log.read_text()
        self.url = line.split(" ready on ")[1].split()[0]

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=30)
        return output.decode() + self.log.read_text()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[Process, str]]:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    process = Process(file, tmp_path / "log")
    try:
        yield process, secret
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.communicate()


def samples() -> bytes:
    """The bundled clip's first seconds, as 16-bit PCM at 16 kHz."""
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(str(CLIP)) as container:
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
    pcm = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return pcm[: 16_000 * 4].astype("<i2").tobytes()


async def speak(url: str, first: list[Any], last: Any, pcm: bytes, key: str) -> list[str]:
    """Be a client of one API from begin to end, and return everything that it was told."""
    told: list[str] = []
    async with connect(url, additional_headers={"X-API-Key": key}, max_size=None) as socket:

        async def listen() -> None:
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    told.append(str(text))

        listening = asyncio.create_task(listen())
        with contextlib.suppress(ConnectionClosed):
            for message in first:
                await socket.send(json.dumps(message))
            for at in range(0, len(pcm), 3200):
                await socket.send(pcm[at : at + 3200])
            await socket.send(json.dumps(last))
        await asyncio.wait([listening], timeout=8)
        if "realtime" in url:  # what is wrong, with words in it
            with contextlib.suppress(ConnectionClosed):
                await socket.send('{"type": "response.create", "event_id": "x"}')
    await listening
    return told


async def misuse(url: str, key: str) -> None:
    """Do wrong what can be done wrong."""
    base = url.replace("http", "ws", 1)
    for path, first, _ in SOCKETS:
        joint = "&" if "?" in path else "?"
        for wrong in (f"{path}{joint}api_key={CANARY}", f"{path}{joint}token={CANARY}"):
            with contextlib.suppress(InvalidStatus):
                async with connect(base + wrong):
                    raise AssertionError("let in")
        with contextlib.suppress(ConnectionClosed):
            async with connect(base + path, additional_headers={"X-API-Key": key}) as socket:
                for message in first:
                    await socket.send(json.dumps(message))
                await socket.send(b"fLaC" + bytes(2000))
                await socket.send('{"type": "' + CANARY)
                async with asyncio.timeout(1):
                    async for _ in socket:
                        pass
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as http:
        await http.post("/v1/audio/transcriptions", content=b"no audio")
        await http.get(f"/v1/models?api_key={CANARY}", headers={"Origin": "https://evil.example"})
        await http.post("/whip", content="v=0", headers={"Content-Type": "application/sdp"})


def phrases(texts: list[str]) -> set[str]:
    """Return every run of letters and spaces with three words in it: what was said, and more."""
    found: set[str] = set()
    for text in texts:
        found |= {each.strip() for each in re.findall(r"(?:[A-Za-z']+ ){2,}[A-Za-z']+", text)}
    return found


@pytest.mark.timeout(180)
async def test_nothing_that_was_said_is_in_the_log(process) -> None:
    server, secret = process
    pcm, told = samples(), list[str]()
    base = server.url.replace("http", "ws", 1)
    for path, first, last in SOCKETS:
        heard = await speak(base + path, first, last, pcm, secret)
        assert heard, path
        told += heard
    async with httpx.AsyncClient(
        base_url=server.url, headers={"X-API-Key": secret}, timeout=60
    ) as http:
        for path in ("/v1/audio/transcriptions?response_format=verbose_json", "/v1/listen"):
            told.append((await http.post(path, content=to_wav(pcm))).text)
        form = {"file": ("a.wav", to_wav(pcm))}
        told.append((await http.post("/v1/audio/transcriptions", files=form)).text)
        token = (await http.post("/v1/tokens", json={"scopes": ["watch"]})).json()["token"]
        session = json.loads(told[0])["session"]
        watched = await http.get(
            f"/v1/sessions/{session}/captions.vtt", headers={"X-API-Key": token}
        )
        told.append(watched.text)
        await http.get(f"/v1/sessions/{session}/captions.vtt?api_key={token}")
    await misuse(server.url, secret)
    log = server.stop()
    said = phrases(told)
    assert any(len(each.split()) >= 4 for each in said), "the clients were told something"
    for each in said:  # as text, and as lists of words
        assert re.search(r"\W+".join(each.split()[:3]), log) is None
    for hidden in (secret, token, CANARY, base64.b64encode(pcm[3200:3230]).decode(), "RIFF"):
        assert hidden not in log
    assert pcm[32_000:32_016].hex() not in log
    assert '"level": "debug"' in log, "the log was as loud as it gets"

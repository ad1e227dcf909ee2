"""Real, unmodified clients, each in an environment of its own, against a real server.

An environment is made from the pinned versions beside this file. What a client script here prints,
a line of JSON for each thing it got, is what its test looks at.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from websockets.sync.client import connect

from stream_server.server import Server
from tests.environments import INSTALL_SECONDS

HERE = Path(__file__).parent
_RUN_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give everything here its marker, and time to make an environment."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS + 120))


@pytest.fixture(scope="session")
def run_client(environment: Callable[[Path], Path]) -> Callable[..., list[dict[str, Any]]]:
    """Runs a script of this folder in its environment; returns the lines of JSON it prints."""

    def run(requirements: str, script: str, *arguments: str, **variables: str) -> Any:
        place = environment(HERE / requirements)
        program = "node" if script.endswith(".mjs") else str(place / "bin" / "python")
        source = HERE / script
        if program == "node":
            source = Path(shutil.copy(source, place))  # it finds its packages beside it
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        environ = {name: os.environ[name] for name in kept if name in os.environ}
        done = subprocess.run(
            [program, str(source), *arguments],
            cwd=place,
            env=environ | {"OPENAI_API_KEY": "sesame"} | variables,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


@pytest.fixture(scope="session")
def clip(recording: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | str], Path]:
    """Writes the recording as raw 16-bit PCM of a rate, or as ``wav`` or ``opus``."""
    folder = tmp_path_factory.mktemp("clip")

    def write(kind: int | str) -> Path:
        path = folder / f"people.{kind}"
        if isinstance(kind, str):
            return path if path.exists() else Path(recording.write(path))
        if not path.exists():
            frame = av.AudioFrame.from_ndarray(recording.samples[None], "s16", "mono")
            frame.sample_rate = 16_000
            resampler = av.AudioResampler("s16", "mono", kind)
            frames = [*resampler.resample(frame), *resampler.resample(None)]
            path.write_bytes(b"".join(each.to_ndarray().tobytes() for each in frames))
        return path

    return write


@pytest.fixture(scope="session")
def native(clip: Callable[[int], Path]) -> Callable[..., list[str]]:
    """Returns the finals that our own protocol gives for the recording, empty ones left out.

    Without partials the same audio always gives the same text.
    """

    @functools.cache
    def transcribe(server: Server, rate: int) -> list[str]:
        data = clip(rate).read_bytes()
        url = server.url.replace("http", "ws", 1) + "/v1/stream"
        start = {"type": "start", "sample_rate": rate, "partial_interval_ms": 0}
        with connect(url, max_size=None) as socket:
            socket.send(json.dumps(start | {"language": "en"}))
            for at in range(0, len(data), rate // 5):
                socket.send(data[at : at + rate // 5])
            socket.send('{"type":"stop"}')
            heard = [json.loads(message) for message in socket]
        assert heard[-1]["type"] == "done"
        return [m["text"] for m in heard if m["type"] == "final" and m["text"]]

    return transcribe

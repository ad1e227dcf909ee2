"""Real, unmodified clients, each in an environment of its own, against a real server.

An environment is made when it is first needed, from the pinned versions beside this file, and kept
in pytest's cache. What a client script here prints, a line of JSON for each thing it got, is what
its test looks at.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from websockets.sync.client import connect

from stream_server.config import RecogniserConfig
from stream_server.server import Server, load_recogniser

HERE = Path(__file__).parent
CLIP = HERE.parents[1] / "data" / "digits.opus"
_UNREACHABLE = ("ConnectionError", "NewConnectionError", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED")
ALIKE = 0.75
"""Share of the words of live segments that must be the same as without partials. Depends on how
often the embedded model's partials are wrong: raise it when the model gets better."""
_INSTALL_SECONDS = 600
_RUN_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give everything here its marker, and time to make an environment."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(_INSTALL_SECONDS + 120))


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Makes the environment of a file of requirements; returns its folder."""
    cache = pytestconfig.cache
    assert cache is not None
    folder = cache.mkdir("clients")

    def make(requirements: str) -> Path:
        source = HERE / requirements
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        place = folder / f"{source.stem}-{digest}"
        done = place / "done"
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            if source.suffix == ".json":
                if shutil.which("npm") is None:
                    pytest.skip("npm is not installed")
                shutil.copy(source, place)
                _install(["npm", "install", "--no-audit", "--no-fund"], place)
            else:
                _install([sys.executable, "-m", "venv", "."], place)
                python = str(place / "bin" / "python")
                _install([python, "-m", "pip", "install", "-q", "-r", str(source)], place)
            done.touch()
        return place

    return make


def _install(command: list[str], place: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS
    )
    if made.returncode:
        if any(sign in made.stderr for sign in _UNREACHABLE):
            pytest.skip(f"the packages of this client cannot be fetched: {made.stderr[-200:]}")
        pytest.fail(f"{' '.join(command)}: {made.stderr[-2000:]}")


@pytest.fixture(scope="session")
def run_client(environment: Callable[[str], Path]) -> Callable[..., list[dict[str, Any]]]:
    """Runs a script of this folder in its environment; returns the lines of JSON it prints."""

    def run(requirements: str, script: str, *arguments: str, **variables: str) -> Any:
        place = environment(requirements)
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


@pytest.fixture(scope="module")
def wyoming_port(free_port: Callable[[], int]) -> int:
    """Where ``real`` speaks Wyoming."""
    return free_port()


@pytest.fixture(scope="module")
def real(
    running: Callable[..., contextlib.AbstractContextManager[Server]], wyoming_port: int
) -> Iterator[Server]:
    """A server with the embedded model."""

    def load(_: RecogniserConfig) -> Any:
        return load_recogniser(RecogniserConfig(model="embedded", threads=1))

    with running(load=load, wyoming_port=wyoming_port) as server:
        yield server


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Decodes the bundled clip to raw 16-bit PCM of a rate, a second of silence after it."""
    folder = tmp_path_factory.mktemp("clip")

    def decode(rate: int) -> Path:
        path = folder / f"{rate}.pcm"
        if not path.exists():
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            with av.open(str(CLIP)) as container:
                frames = [
                    made
                    for frame in container.decode(audio=0)
                    for made in resampler.resample(frame)
                ]
            frames += resampler.resample(None)
            samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
            path.write_bytes(samples.astype("<i2").tobytes() + bytes(2 * rate))
        return path

    return decode


@pytest.fixture(scope="session")
def native(clip: Callable[[int], Path]) -> Callable[..., list[str]]:
    """Returns the finals that our own protocol gives for the clip at a rate, empty ones left out.

    Without partials the same audio always gives the same text.
    """

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


@pytest.fixture(scope="session")
def check_live() -> Callable[[list[str], list[str]], None]:
    """Checks the texts of live segments against those that our own protocol gives.

    Nearly the same words: a word that two partials agreed on stays, also where the whole segment
    is then taken for noise, and when partials come depends on how fast the machine is.
    """

    def check(texts: list[str], expected: list[str]) -> None:
        assert len(texts) >= len(expected)
        words, right = " ".join(texts).lower().split(), " ".join(expected).lower().split()
        assert words
        alike = difflib.SequenceMatcher(None, words, right, autojunk=False).ratio()
        assert alike >= ALIKE, f"{texts} is not {expected}"

    return check
